"""Checks of every GPU kernel against the reference kernels on the same device, with random weights.

At the true shapes of gpt-oss they take about a minute, most of it to compile. In Triton's interpreter the shapes are
small, because each program of a kernel takes milliseconds there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from gptoss_cli.engine.device_errors import device_errors, has_failed, resource_error
from gptoss_cli.engine.expert_offload import PackedExperts, packed_only, place_single
from gptoss_cli.engine.kernels import reference
from gptoss_cli.engine.kernels.protocol import Kernels
from gptoss_cli.engine.kv_cache import FullLayer, LayerCache, SlidingLayer
from gptoss_cli.engine.loader import choose_kernels
from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.pinned_memory import pinned_rows
from gptoss_cli.engine.random_weights import random_weights
from gptoss_cli.engine.sampler import Sampler
from gptoss_cli.engine.selfcheck import check_kernels, check_overlapped, difference, router_logits
from gptoss_cli.engine.weights import AttentionWeights, MlpWeights, ModelWeights, Rows
from gptoss_cli.errors import first_line
from gptoss_cli.generation import Sampling
from gptoss_cli.placement.model_config import ModelConfig, published_config
from gptoss_cli.placement.placement import KernelSet, Placement, WeightPlacement

_EPS, _LIMIT = 1e-5, 7.0
_FLOAT32, _BFLOAT16 = torch.float32, torch.bfloat16
# Root mean squares of differences, of that of the values. The reference computes in float32 throughout.
_ALLOWED = {_FLOAT32: 1e-4, _BFLOAT16: 1.5e-2}
_HALF = 0x11  # a byte of two elements of 0.5, which are subnormal
_NAN_SCALE = 255
_CONTEXT_TOKENS, _CHUNK_TOKENS = 256, 1_000
_Pairs = Iterator[tuple[Tensor, Tensor]]  # what a kernel computes, and what the reference computes
_Named = tuple[str, torch.dtype, Callable[[], _Pairs]]


@dataclass(frozen=True, slots=True)
class KernelCheck:
    """The result of one check: how far the kernel is from the reference, or the `problem` with which it failed."""

    name: str
    difference: float
    allowed: float
    problem: str = ""

    @property
    def is_right(self) -> bool:
        """True if the kernel ran and is close enough. NaN is not."""
        return not self.problem and self.difference <= self.allowed

    @property
    def words(self) -> str:
        """The result in words."""
        if self.problem:
            return f"{self.name}: {self.problem}"
        return f"{self.name}: differs by {self.difference:.2g}, allowed is {self.allowed:.2g}"


@dataclass(frozen=True, slots=True)
class CheckShape:
    """The shapes to check: those of a model, the known tokens before one or several, and numbers of tokens."""

    config: ModelConfig
    known: tuple[int, ...]
    several: tuple[tuple[int, int], ...]  # tokens that are known, and those that are new
    expert_tokens: tuple[int, ...]
    routers: tuple[int, ...]


def check_shape(*, interpreted: bool) -> CheckShape:
    """Return the shape of gpt-oss-20b with few experts, or a small one for Triton's interpreter."""
    config = published_config(layers=2, experts=8)
    if not interpreted:
        several = ((0, 2), (0, 300), (100, 37), (5_000, 700))
        return CheckShape(config, (0, 1, 127, 128, 130, 8_191, 65_536), several, (2, 5, 40, 700), (32, 128))
    small = replace(
        config,
        hidden_size=96,
        intermediate_size=64,
        query_heads=6,
        kv_heads=2,
        head_dim=16,
        vocabulary_size=331,
        sliding_window=16,
        max_context_tokens=512,
    )
    return CheckShape(small, (0, 15, 40), ((0, 2), (20, 19)), (3, 17), (8,))


def check_gpu(device: str) -> Iterator[KernelCheck]:
    """Check the Triton kernels on `device`; on the CPU in Triton's interpreter. Raises ResourceError."""
    placement = Placement(context_tokens=_CONTEXT_TOKENS, device=device, kernels=KernelSet.TRITON)
    with device_errors():
        kernels, _ = choose_kernels(placement)
        yield from KernelChecks(kernels, torch.device(device), check_shape(interpreted=device == "cpu"))


class KernelChecks:
    """All checks of one kernel set. Iterate to run them one after another."""

    def __init__(self, kernels: Kernels, device: torch.device, shape: CheckShape) -> None:
        self._kernels, self._device, self._shape = kernels, device, shape
        self._random = torch.Generator().manual_seed(1)

    def __iter__(self) -> Iterator[KernelCheck]:
        for name, dtype, compare in self._all():
            try:
                worst = max((difference(right, got) for got, right in compare()), key=_nan_first)
            except Exception as exc:  # noqa: BLE001 (compilers raise anything)
                problem = first_line(resource_error(exc) or exc)
                yield KernelCheck(name, 0.0, _ALLOWED[dtype], problem)
                if has_failed(exc):
                    return  # nothing on the device can be used any more
            else:
                yield KernelCheck(name, worst, _ALLOWED[dtype])

    def _all(self) -> Iterator[_Named]:
        """Yield the name of each check, its arithmetic, and a function that gives pairs of results."""
        weights = self._weights()
        layer, unembedding = weights.layers[0], weights.unembedding
        del weights  # the embedding is large
        for dtype in (_FLOAT32, _BFLOAT16):
            kind = str(dtype).removeprefix("torch.")
            yield f"qkv, {kind}", dtype, partial(self._qkv, layer.attention, dtype)
            yield f"output, {kind}", dtype, partial(self._output, layer.attention, dtype)
            yield f"unembedding, {kind}", dtype, partial(self._unembed, layer.attention.norm, unembedding, dtype)
        yield "embedding in host memory", _FLOAT32, self._embed
        yield from self._attention_checks(layer.attention)
        for experts in self._shape.routers:
            yield f"router of {experts} experts", _FLOAT32, partial(self._route, experts)
        yield from self._expert_checks(layer.mlp)
        yield "draws", _FLOAT32, self._draws
        yield "whole layers, and CUDA graphs of them", _FLOAT32, self._whole_model

    def _attention_checks(self, weights: AttentionWeights) -> Iterator[_Named]:
        for window in (0, self._shape.config.sliding_window):
            where = f"a window of {window}" if window else "all keys"
            for known in self._shape.known:
                name = f"attention of one token after {known:,}, {where}"
                yield name, _BFLOAT16, partial(self._attend, weights, window, (known, 1))
            for known, tokens in self._shape.several:
                name = f"attention of {tokens:,} tokens after {known:,}, {where}"
                yield name, _BFLOAT16, partial(self._attend, weights, window, (known, tokens))

    def _expert_checks(self, weights: MlpWeights) -> Iterator[_Named]:
        count = len(weights.router.bias)
        for resident in (count, count // 2, 0):
            for tokens in (1, *self._shape.expert_tokens):
                for dtype in (_FLOAT32, _BFLOAT16):
                    kind = str(dtype).removeprefix("torch.")
                    name = f"experts, {resident} of {count} on the GPU, {tokens:,} tokens, {kind}"
                    yield name, dtype, partial(self._experts, weights, resident, tokens, dtype)
        yield "experts that take turns in the GPU's memory", _FLOAT32, partial(self._taking_turns, weights)
        yield "experts of subnormal elements", _FLOAT32, partial(self._filled, weights)
        yield "a scale that is not a number", _FLOAT32, partial(self._not_a_number, weights)

    def _weights(self) -> ModelWeights:
        config = self._shape.config
        whole = WeightPlacement(gpu_experts=config.layers * config.experts, embedding_on_gpu=True)
        device, kernels = str(self._device), KernelSet.REFERENCE
        placement = Placement(context_tokens=_CONTEXT_TOKENS, device=device, kernels=kernels, weights=whole)
        return random_weights(config, placement)

    def _normal(self, *size: int) -> Tensor:
        return torch.randn(*size, generator=self._random).to(self._device)

    def _embed(self) -> _Pairs:
        columns = self._shape.config.hidden_size
        rows, ids = self._normal(50, columns).bfloat16(), torch.tensor([7, 49, 0], device=self._device)
        for chosen in (ids[:1], ids):
            yield self._kernels.embed(chosen, pinned_rows(rows, self._device)), reference.embed(chosen, rows)

    def _qkv(self, weights: AttentionWeights, dtype: torch.dtype) -> _Pairs:
        x = self._normal(1, self._shape.config.hidden_size)
        got = self._kernels.project_qkv(x, weights, eps=_EPS, dtype=dtype)
        yield from zip(got, reference.project_qkv(x, weights, eps=_EPS, dtype=_FLOAT32), strict=True)

    def _output(self, weights: AttentionWeights, dtype: torch.dtype) -> _Pairs:
        config = self._shape.config
        x, attended = self._normal(1, config.hidden_size), self._normal(1, config.query_heads * config.head_dim)
        got = self._kernels.project_output(x, attended, weights, dtype=dtype)
        yield got - x, reference.project_output(x, attended, weights, dtype=_FLOAT32) - x

    def _unembed(self, norm: Tensor, matrix: Rows, dtype: torch.dtype) -> _Pairs:
        x = self._normal(1, self._shape.config.hidden_size)
        got = self._kernels.unembed(x, norm, matrix, eps=_EPS, dtype=dtype)
        yield got, reference.unembed(x, norm, matrix, eps=_EPS, dtype=_FLOAT32)

    def _attend(self, weights: AttentionWeights, window: int, tokens: tuple[int, int]) -> _Pairs:
        config, (known, new) = self._shape.config, tokens
        sizes = [heads * config.head_dim for heads in (config.query_heads, config.kv_heads, config.kv_heads)]
        qkv = tuple(self._normal(new, size) for size in sizes)
        positions = torch.arange(known, known + new, device=self._device).unsqueeze(1)
        angles = positions * torch.linspace(1, 1e-5, config.head_dim // 2, device=self._device)
        before = [self._normal(known, config.kv_heads, config.head_dim).to(_BFLOAT16) for _ in range(2)]
        results = []
        for attend in (self._kernels.attend, reference.attend):
            layer = self._cache(window, known + new)
            for start in range(0, known, _CHUNK_TOKENS):
                keys, values = (part[start : start + _CHUNK_TOKENS] for part in before)
                layer.append(keys, values, start)
            layer.position.fill_(known)
            rotation = angles.cos(), angles.sin()
            results.append(attend((qkv[0], qkv[1], qkv[2]), rotation, weights.sinks, layer, position=known))
        yield results[0], results[1]

    def _cache(self, window: int, tokens: int) -> LayerCache:
        config, position = self._shape.config, torch.zeros(1, dtype=torch.int32, device=self._device)
        if window:
            return SlidingLayer(config.kv_heads, config.head_dim, window=window, dtype=_BFLOAT16, position=position)
        context = tokens + 1
        return FullLayer(config.kv_heads, config.head_dim, context_tokens=context, dtype=_BFLOAT16, position=position)

    def _route(self, experts: int) -> _Pairs:
        """Compare the weights of the chosen experts: where two logits are equal, either expert may be chosen."""
        active = self._shape.config.active_experts
        small = replace(self._shape, config=replace(self._shape.config, experts=experts, intermediate_size=32))
        mlp = KernelChecks(self._kernels, self._device, small)._weights().layers[0].mlp
        for _ in range(3):
            x = self._normal(1, self._shape.config.hidden_size)
            normed, _, right = reference.route(x, mlp, active=active, eps=_EPS)
            got, chosen, given = self._kernels.route(x, _placed(mlp, self._device, experts), active=active, eps=_EPS)
            yield got, normed
            yield given, right
            yield router_logits(normed, mlp.router).gather(1, chosen).softmax(-1), right

    def _experts(self, weights: MlpWeights, resident: int, tokens: int, dtype: torch.dtype) -> _Pairs:
        yield self._mixed(weights, _placed(weights, self._device, resident), tokens, dtype)

    def _mixed(self, plain: MlpWeights, placed: MlpWeights, tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        x = self._normal(tokens, self._shape.config.hidden_size)
        routed = reference.route(x, plain, active=self._shape.config.active_experts, eps=_EPS)
        right = reference.mix_experts(x, routed, plain, limit=_LIMIT, dtype=_FLOAT32)
        return self._kernels.mix_experts(x, routed, placed, limit=_LIMIT, dtype=dtype) - x, right - x

    def _taking_turns(self, weights: MlpWeights) -> _Pairs:
        """Compute tokens one after another, whose experts replace those of earlier tokens, and several at once."""
        placed = _placed(weights, self._device, len(weights.router.bias) // 2 + 1)
        for tokens in (*[1] * 6, *self._shape.expert_tokens, 1):
            yield self._mixed(weights, placed, tokens, _FLOAT32)

    def _filled(self, weights: MlpWeights) -> _Pairs:
        """Use elements of 0.5 only, which are lost if the hardware takes subnormal numbers for 0."""
        parts = (packed_only(part) for part in (weights.gate_up, weights.down))
        same = [PackedExperts(torch.full_like(part.blocks, _HALF), part.scales, part.bias) for part in parts]
        plain = MlpWeights(weights.norm, weights.router, *same)
        for tokens in (1, 3):
            placed = _placed(plain, self._device, len(weights.router.bias))
            yield self._mixed(plain, placed, tokens, _FLOAT32)

    def _not_a_number(self, weights: MlpWeights) -> _Pairs:
        gate_up = packed_only(weights.gate_up)
        scales = torch.full_like(gate_up.scales, _NAN_SCALE)
        spoiled = MlpWeights(
            weights.norm, weights.router, PackedExperts(gate_up.blocks, scales, gate_up.bias), weights.down
        )
        placed = _placed(spoiled, self._device, len(weights.router.bias))
        for tokens in (1, 3):
            got, _ = self._mixed(weights, placed, tokens, _FLOAT32)
            yield got.isnan().float(), torch.ones_like(got)

    def _draws(self) -> _Pairs:
        """Compare ids that the device draws with those that the CPU draws, by the same random numbers."""
        size = self._shape.config.vocabulary_size
        for settings in (Sampling(7), Sampling(7, temperature=0), Sampling(7, top_p=0.8, top_k=50)):
            ids = []
            logits = [self._normal(size) * 3 for _ in range(4)]
            for device in (str(self._device), "cpu"):
                sampler = Sampler(settings, banned_ids=(3, 4), vocabulary_size=size, device=device)
                ids.append(torch.tensor([sampler.draw(each.to(device)) for each in logits], dtype=torch.float64))
            yield ids[0], ids[1]

    def _whole_model(self) -> _Pairs:
        """Run the checks of a start, which raise an error."""
        weights = self._weights()
        count = self._shape.config.experts
        layers = tuple(replace(layer, mlp=_placed(layer.mlp, self._device, count)) for layer in weights.layers)
        placed = replace(weights, layers=layers)
        on_gpu = self._device.type == "cuda"
        model = Transformer(self._shape.config, placed, self._kernels, _BFLOAT16, use_cuda_graph=on_gpu)
        check_kernels(model)
        if on_gpu:
            check_overlapped(model)
        yield torch.ones(1), torch.ones(1)


def _placed(weights: MlpWeights, device: torch.device, slots: int) -> MlpWeights:
    gate_up, down = packed_only(weights.gate_up), packed_only(weights.down)
    return MlpWeights(weights.norm, weights.router, *place_single(gate_up, down, device, slots))


def _nan_first(value: float) -> tuple[bool, float]:
    return value != value, value
