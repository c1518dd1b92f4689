"""Start-up checks that the kernels of a device give correct results: two computations of one thing are compared.

A compiler or driver can produce wrong code without any error. The checks use the first layers, which are of both kinds,
and random inputs.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gptoss_cli.engine.cuda_graph import CudaGraph
from gptoss_cli.engine.kv_cache import KVCache
from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.sampler import Sampler
from gptoss_cli.engine.steppers import StepLauncher
from gptoss_cli.errors import Hint, ResourceError, first_line
from gptoss_cli.generation import Sampling

_CONTEXT_TOKENS, _LAYERS = 256, 2
# Of the largest value. Rounding to bfloat16 gives far less, a wrong kernel far more.
_MAX_DIFFERENCE = 0.05


def check_kernels(model: Transformer) -> None:
    """Compare the kernels for one token, and a CUDA graph of them, with the kernels for several tokens.

    Everything that a conversation needs has been compiled after that. Raises ResourceError if results differ by more
    than rounding, or if a kernel fails.
    """
    _compare(model, partial(_layer_at_once, model), partial(_layer_token_by_token, model))

    def unembed_both(number: int) -> Tensor:
        return model.unembed(_random_inputs(model, number))[:1].cpu()

    def unembed_one(number: int) -> Tensor:
        return model.unembed(_random_inputs(model, number)[:1]).cpu()

    _compare(model, unembed_both, unembed_one)


def check_device(model: Transformer, on_cpu: Transformer) -> None:
    """Compare the layers of `model` with those of the same model on the CPU. Raises as `check_kernels` does."""
    _compare(model, partial(_layer_at_once, on_cpu), partial(_layer_at_once, model))


def check_overlapped(model: Transformer) -> None:
    """Compare the logits of overlapped steps with those of single tokens. Raises as `check_kernels` does."""
    size, device = model.config.vocabulary_size, str(model.device)
    sampler = Sampler(Sampling(seed=0, temperature=0), banned_ids=(), vocabulary_size=size, device=device)
    # The same cache and launcher for all tokens: a CUDA graph belongs to a cache.
    cache, launcher = _new_cache(model), StepLauncher(model, _new_cache(model), sampler)
    _compare(
        model,
        lambda id_: model.unembed(model.forward([id_], cache))[0],
        lambda id_: launcher.launch(id_, sampler).logits.clone(),
    )


def _compare(model: Transformer, expected: Callable[[int], Tensor], actual: Callable[[int], Tensor]) -> None:
    """Compare two computations of the first few numbers, which are layers, ids or seeds."""
    try:
        pairs = [(expected(number), actual(number)) for number in range(min(_LAYERS, model.config.layers))]
        worst = max(float((right - found).abs().max() / right.abs().max()) for right, found in pairs)
    except Exception as exc:
        raise ResourceError(f"The GPU's kernels fail: {first_line(exc)}", Hint.CPU) from exc
    if not worst < _MAX_DIFFERENCE:  # also if it is NaN
        raise ResourceError(f"The GPU's kernels give wrong results (they differ by {worst:.1%})", Hint.CPU)


def _layer_at_once(model: Transformer, number: int) -> Tensor:
    """Run layer `number` on two tokens at once -> [2, C] on the CPU."""
    with model.on_device():
        run = _layer(model, number, _new_cache(model))
        return run(_random_inputs(model, number), *model.rope.of_range(0, 2)).cpu()


def _layer_token_by_token(model: Transformer, number: int) -> Tensor:
    """Run layer `number` on two tokens one by one, the last time in a CUDA graph if the model uses them."""
    cache, x, outputs = _new_cache(model), _random_inputs(model, number), []
    run = _layer(model, number, cache)
    with model.on_device():
        for position in range(2):
            cache.position.fill_(position)
            inputs = x[position : position + 1], *model.rope.of_range(position, 1)
            outputs.append(run(*inputs))
            if model.use_cuda_graph:
                outputs[-1] = CudaGraph(run, inputs).replay(inputs)
            cache.advance(1)
        return torch.cat(outputs).cpu()


def _layer(model: Transformer, number: int, cache: KVCache) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return layer `number` as a function of x, cos and sin, which a CUDA graph needs as separate inputs."""
    weights, layer_cache = model.weights.layers[number], cache.layers[number]
    return lambda x, cos, sin: model.layer(x, weights, layer_cache, rotation=(cos, sin), position=cache.length)


def _random_inputs(model: Transformer, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(2, model.config.hidden_size, generator=random).to(model.device)


def _new_cache(model: Transformer) -> KVCache:
    return model.new_cache(_CONTEXT_TOKENS)
