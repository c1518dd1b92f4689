"""Start-up checks that the kernels of a device give correct results: two computations of one thing are compared.

A compiler or driver can produce wrong code without any error. The checks use the first layers, which are of both kinds,
and random inputs. A checkpoint must not fail because of its weights, so nothing depends on a choice that rounding can
change: experts are the same in both computations, and the router is compared by the weights that it gives.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from gptoss_cli.engine.cuda_graph import CudaGraph
from gptoss_cli.engine.device_errors import resource_error
from gptoss_cli.engine.kernels.protocol import Kernels
from gptoss_cli.engine.kv_cache import KVCache
from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.sampler import Sampler
from gptoss_cli.engine.steppers import StepLauncher
from gptoss_cli.engine.weights import Linear, float_rows
from gptoss_cli.errors import GptossError, Hint, ResourceError, first_line
from gptoss_cli.generation import Sampling

_CONTEXT_TOKENS, _LAYERS, _TOKENS = 256, 2, 2
# Root mean square of the difference, of that of the values. Rounding to bfloat16 gives far less, a wrong kernel more.
_MAX_DIFFERENCE = 0.05
# Of a single value, relative to the largest one: a kernel may be wrong in a few rows only.
_MAX_OUTLIER = 0.25


def check_kernels(model: Transformer) -> None:
    """Compare the kernels for one token, and a CUDA graph of them, with the kernels for several tokens.

    Everything that a conversation needs has been compiled after that. Raises ResourceError if results differ by more
    than rounding, or if a kernel fails.
    """
    _compare(model, partial(_layer_at_once, model), partial(_layer_token_by_token, model))
    _compare(model, partial(_expert_weights, model, at_once=True), partial(_expert_weights, model, at_once=False))

    def unembed_both(number: int) -> Tensor:
        return model.unembed(_random_inputs(model, number))[:1].cpu()

    def unembed_one(number: int) -> Tensor:
        return model.unembed(_random_inputs(model, number)[:1]).cpu()

    _compare(model, unembed_both, unembed_one)


def check_device(model: Transformer, on_cpu: Transformer) -> None:
    """Compare the layers of `model` with those of the same model on the CPU. Raises as `check_kernels` does."""
    _compare(model, partial(_layer_at_once, on_cpu), partial(_layer_at_once, model))


def check_overlapped(model: Transformer) -> None:
    """Compare the logits of overlapped steps with those of single tokens. Raises as `check_kernels` does.

    The same kernels run in both, on the same inputs, so they choose the same experts.
    """
    size, device = model.config.vocabulary_size, str(model.device)
    sampler = Sampler(Sampling(seed=0, temperature=0), banned_ids=(), vocabulary_size=size, device=device)
    # The same cache and launcher for all tokens: a CUDA graph belongs to a cache.
    cache, launcher = _new_cache(model), StepLauncher(model, _new_cache(model), sampler)
    _compare(
        model,
        lambda id_: model.unembed(model.forward([id_], cache))[0],
        lambda id_: launcher.launch(id_, sampler).logits.clone(),
    )


def difference(expected: Tensor, actual: Tensor) -> float:
    """Return how far `actual` is from `expected`, relative to the latter: root mean square, or a gross outlier's size.

    NaN if any value is NaN.
    """
    expected, actual = expected.double(), actual.double()
    apart, largest = (actual - expected).abs(), expected.abs().max()
    if not largest:
        return float(apart.max())
    outlier = float(apart.max() / largest)
    rms = float(apart.square().mean().sqrt() / expected.square().mean().sqrt())
    return max(rms, outlier) if outlier > _MAX_OUTLIER else rms


def router_logits(normed: Tensor, router: Linear) -> Tensor:
    """Return the logits [T, E] of a router for `normed` [T, C], in float32."""
    matrix = float_rows(router.weight, 0, len(router.weight), columns=normed.shape[1])
    return torch.nn.functional.linear(normed, matrix, router.bias.float())


@contextmanager
def kernel_errors() -> Iterator[None]:
    """Turn whatever a compiler or a device raises within the block into ResourceError."""
    try:
        yield
    except GptossError:
        raise
    except Exception as exc:
        error = resource_error(exc)
        if error is not None:
            raise error from exc
        raise ResourceError(f"The GPU's kernels fail: {first_line(exc)}", Hint.CPU) from exc


def _compare(model: Transformer, expected: Callable[[int], Tensor], actual: Callable[[int], Tensor]) -> None:
    """Compare two computations of the first few numbers, which are layers, ids or seeds."""
    with kernel_errors():
        found = [difference(expected(number), actual(number)) for number in range(min(_LAYERS, model.config.layers))]
    wrong = next((each for each in found if not each < _MAX_DIFFERENCE), None)  # also if it is NaN
    if wrong is not None:
        raise ResourceError(f"The GPU's kernels give wrong results (they differ by {wrong:.1%})", Hint.CPU)


def _layer_at_once(model: Transformer, number: int) -> Tensor:
    """Return what layer `number` adds to two tokens at once, [2, C] on the CPU."""
    x = _random_inputs(model, number)
    with model.on_device():
        run = _layer(model, number, _new_cache(model))
        return (run(x, *model.rope.of_range(0, _TOKENS)) - x).cpu()


def _layer_token_by_token(model: Transformer, number: int) -> Tensor:
    """Run layer `number` on two tokens one by one, the last time in a CUDA graph if the model uses them."""
    cache, x, outputs = _new_cache(model), _random_inputs(model, number), []
    run = _layer(model, number, cache)
    with model.on_device():
        for position in range(_TOKENS):
            cache.position.fill_(position)
            inputs = x[position : position + 1], *model.rope.of_range(position, 1)
            outputs.append(run(*inputs))
            if model.use_cuda_graph:
                outputs[-1] = CudaGraph(run, inputs).replay(inputs)
            cache.advance(1)
        return (torch.cat(outputs) - x).cpu()


def _layer(model: Transformer, number: int, cache: KVCache) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return layer `number` as a function of x, cos and sin, which a CUDA graph needs as separate inputs."""
    weights, layer_cache = model.weights.layers[number], cache.layers[number]
    fixed = Transformer(model.config, model.weights, cast(Kernels, _FixedRouting(model, number)), model.dtype)
    return lambda x, cos, sin: fixed.layer(x, weights, layer_cache, rotation=(cos, sin), position=cache.length)


class _FixedRouting:
    """The kernels of a model, with the same experts for every token. They are spread, over both memories if in two."""

    def __init__(self, model: Transformer, number: int) -> None:
        self._kernels, config = model.kernels, model.config
        chosen = [(number + place * config.experts // config.active_experts) for place in range(config.active_experts)]
        self._experts = torch.tensor(
            [[expert % config.experts for expert in chosen]] * _TOKENS, device=model.device, dtype=torch.int64
        )
        self._expert_weights = torch.full(
            (_TOKENS, config.active_experts), 1 / config.active_experts, device=model.device
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernels, name)

    def route(self, x: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        """See Kernels.route."""
        normed, _, _ = self._kernels.route(x, *arguments, **options)
        return normed, self._experts[: len(x)], self._expert_weights[: len(x)]


def _expert_weights(model: Transformer, number: int, *, at_once: bool) -> Tensor:
    """Return the weights of the chosen experts, which they have, and which their logits give them -> [2, 2, A].

    Equal logits may go to different experts, but they give the same weights.
    """
    weights, config = model.weights.layers[number].mlp, model.config
    x = _random_inputs(model, number)
    with model.on_device():
        parts = [x] if at_once else [x[:1], x[1:]]
        route = partial(model.kernels.route, weights=weights, active=config.active_experts, eps=config.norm_eps)
        normed, experts, given = (torch.cat(each) for each in zip(*map(route, parts), strict=True))
        logits = router_logits(normed, weights.router)
        return torch.stack((given, logits.gather(1, experts).softmax(-1))).cpu()


def _random_inputs(model: Transformer, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(_TOKENS, model.config.hidden_size, generator=random).to(model.device)


def _new_cache(model: Transformer) -> KVCache:
    return model.new_cache(_CONTEXT_TOKENS)
