"""The gpt-oss transformer, written once over the operations of `kernels`: their order, and no arithmetic of its own."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import cast

import torch
from torch import Tensor

from gptoss_cli.engine.cuda_graph import CudaGraph
from gptoss_cli.engine.expert_offload import PlacedExperts
from gptoss_cli.engine.kernels.protocol import Kernels, LayerDecoder
from gptoss_cli.engine.kv_cache import KVCache, LayerCache
from gptoss_cli.engine.profiling import CallRecorder, KernelCall
from gptoss_cli.engine.weights import LayerWeights, ModelWeights
from gptoss_cli.errors import ResourceError, first_line
from gptoss_cli.placement.model_config import ModelConfig, Rope, Yarn

# Layers of both kinds are among the first. What bfloat16 rounds is far below what a wrong kernel gives.
CHECKED_CONTEXT, _CHECKED_LAYERS, _MOST_DIFFERENCE = 256, 2, 0.05


class Transformer:
    """Weights, arithmetic and the operations to run them with. Holds no sequence: that is the cache's.

    With `records` the operations of one token are recorded once, as a CUDA graph, and from then on replayed.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        kernels: Kernels,
        dtype: torch.dtype,
        *,
        records: bool = False,
    ) -> None:
        self.config = config
        self.kernels = kernels
        self._decoder = kernels if isinstance(kernels, LayerDecoder) else None
        self._weights = weights
        self._dtype = dtype
        self.device = weights.final_norm.device
        self.records = records
        # Whether a token may be read before the host has seen it: what it needs is on the device.
        all_there = weights.embedding.device == self.device and all(all(up.resident) for up, _ in self.placed_experts())
        self.overlaps = records and all_there
        self._recording: tuple[KVCache, CudaGraph[Tensor]] | None = None
        frequencies, self._concentration = rotary_frequencies(config.rope, config.head_dim)
        self._frequencies = frequencies.to(self.device)

    @property
    def on_device(self) -> AbstractContextManager[object]:
        """Within it new recordings and streams are this device's."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def new_cache(self, context_tokens: int) -> KVCache:
        """An empty cache in this model's arithmetic, on its device."""
        return KVCache(self.config, context_tokens=context_tokens, dtype=self._dtype, device=str(self.device))

    def read(self, ids: list[int], cache: KVCache) -> Tensor:
        """Run tokens ids [T] at the end of `cache`, and cache them -> hidden states [T, C] float32 for `unembed`."""
        with self.on_device:
            return self._read(ids, cache)

    def read_on_device(self, token: Tensor, cache: KVCache) -> Tensor:
        """Run one token, its id [1] and its position on the device, without asking the host -> [1, C] for `unembed`.

        `cache.position` is where it goes; the cache does not count it yet.
        """
        x = self.kernels.embed(token, self._weights.embedding)
        return self._run(x, self._rotation_of(cache.position), cache)

    def unembed(self, hidden: Tensor) -> Tensor:
        """Hidden states [T, C] -> logits [T, V] float32."""
        weights, eps = self._weights, self.config.norm_eps
        with self.on_device:
            return self.kernels.unembed(hidden, weights.final_norm, weights.unembedding, eps=eps, dtype=self._dtype)

    def decode_bytes(self) -> int:
        """Bytes of weights that one token reads."""
        share = self.config.active_experts / self.config.experts
        total = float(self._weights.unembedding.nbytes)
        for layer in self._weights.layers:
            attention, mlp = layer.attention, layer.mlp
            linears = (attention.query, attention.key, attention.value, attention.output, mlp.router)
            total += sum(linear.weight.nbytes for linear in linears)
            total += sum(experts.nbytes for experts in (mlp.gate_up, mlp.down)) * share
        return round(total)

    def calls_for_token(self, id_: int, cache: KVCache) -> dict[str, list[KernelCall]]:
        """The calls of the kernels, an operation at a time, for token `id_` after those in `cache`; they spoil it."""
        noted = CallRecorder(self.kernels)
        single = Transformer(self.config, self._weights, cast(Kernels, noted), self._dtype)
        single.unembed(single.read([id_], cache))
        return noted.calls

    def check_kernels(self) -> None:
        """Hold the kernels for one token to those for several, in every kind of layer, and a recording to both.

        All that a conversation needs is compiled by then. Raises ResourceError if they differ by more than rounding
        does, or fail.
        """
        self.compare(self._read_at_once, self._read_singly)
        tokens = self._checked_tokens
        self.compare(
            lambda number: self.unembed(tokens(number))[:1].cpu(),
            lambda number: self.unembed(tokens(number)[:1]).cpu(),
        )

    def check_device(self, mapped: "Transformer") -> None:
        """Hold layers read on this device to those of the same model on the CPU. Raises as `check_kernels`."""
        self.compare(mapped._read_at_once, self._read_at_once)

    def compare(self, right: Callable[[int], Tensor], tried: Callable[[int], Tensor]) -> None:
        """Hold what is made of the first few numbers in one way to what is made in another. Raises as said above."""
        try:
            pairs = [(right(number), tried(number)) for number in range(min(_CHECKED_LAYERS, self.config.layers))]
            worst = max(float((told - made).abs().max() / told.abs().max()) for told, made in pairs)
        except Exception as exc:
            raise ResourceError(f"The GPU's kernels fail: {first_line(exc)}. Use --device cpu") from exc
        if not worst < _MOST_DIFFERENCE:
            raise ResourceError(f"The GPU's kernels give wrong results (by {worst:.1%}). Use --device cpu")

    def _read_at_once(self, number: int) -> Tensor:
        """What layer `number` makes of the two tokens of a check, read together -> [2, C] on the CPU."""
        cache = self.new_cache(CHECKED_CONTEXT)
        with self.on_device:
            return self._read_layer(number, cache, self._checked_tokens(number), *self._rotation(0, 2)).cpu()

    def _read_singly(self, number: int) -> Tensor:
        """As `_read_at_once`, read one by one, and from a recording if there are to be any."""
        cache, both, parts = self.new_cache(CHECKED_CONTEXT), self._checked_tokens(number), []
        run = partial(self._read_layer, number, cache)
        with self.on_device:
            for position in range(2):
                cache.position.fill_(position)
                inputs = both[position : position + 1], *self._rotation(position, 1)
                parts.append(run(*inputs))
                if self.records:
                    parts[-1] = CudaGraph(run, inputs).replay(inputs)
                cache.advance(1)
            return torch.cat(parts).cpu()

    def _read_layer(self, number: int, cache: KVCache, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        weights, layer_cache = self._weights.layers[number], cache.layers[number]
        return self._layer(x, weights, layer_cache, rotation=(cos, sin), position=cache.length)

    def _checked_tokens(self, number: int) -> Tensor:
        random = torch.Generator().manual_seed(number)
        return torch.randn(2, self.config.hidden_size, generator=random).to(self.device)

    def placed_experts(self) -> list[tuple[PlacedExperts, PlacedExperts]]:
        """Both matrices of each layer whose experts were placed."""
        pairs = [(layer.mlp.gate_up, layer.mlp.down) for layer in self._weights.layers]
        return [(up, down) for up, down in pairs if isinstance(up, PlacedExperts) and isinstance(down, PlacedExperts)]

    def _read(self, ids: list[int], cache: KVCache) -> Tensor:
        rotation = self._rotation(cache.length, len(ids))
        embedding = self._weights.embedding  # which may be in host memory
        x = self.kernels.embed(torch.tensor(ids, device=embedding.device), embedding).to(self.device)
        cache.position.fill_(cache.length)
        x = self._replay(x, rotation, cache) if self.records and len(ids) == 1 else self._run(x, rotation, cache)
        cache.advance(len(ids))
        return x

    def _run(self, x: Tensor, rotation: tuple[Tensor, Tensor], cache: KVCache) -> Tensor:
        layers, position = self._weights.layers, cache.length
        if self._decoder is not None and len(x) == 1:
            return self._decoder.decode_layers(
                x, layers, cache.layers, rotation, position=position, config=self.config, dtype=self._dtype
            )
        for weights, layer_cache in zip(layers, cache.layers, strict=True):
            x = self._layer(x, weights, layer_cache, rotation=rotation, position=position)
        return x

    def _replay(self, x: Tensor, rotation: tuple[Tensor, Tensor], cache: KVCache) -> Tensor:
        """As `_run`, for one token. Of two caches in turn, each is recorded anew."""
        if self._recording is None or self._recording[0] is not cache:
            self._recording = None  # its memory is free for the next
            recording = CudaGraph(lambda x, cos, sin: self._run(x, (cos, sin), cache), (x, *rotation))
            self._recording = cache, recording
        return self._recording[1].replay((x, *rotation))

    def _layer(
        self, x: Tensor, weights: LayerWeights, cache: LayerCache, *, rotation: tuple[Tensor, Tensor], position: int
    ) -> Tensor:
        do, config, dtype = self.kernels, self.config, self._dtype
        qkv = do.project_qkv(x, weights.attention, eps=config.norm_eps, dtype=dtype)
        attended = do.attend(qkv, rotation, weights.attention.sinks, cache, position=position)
        x = do.project_output(x, attended, weights.attention, dtype=dtype)
        routed = do.route(x, weights.mlp, active=config.active_experts, eps=config.norm_eps)
        return do.mix_experts(x, routed, weights.mlp, limit=config.swiglu_limit, dtype=dtype)

    def _rotation(self, position: int, tokens: int) -> tuple[Tensor, Tensor]:
        """cos and sin [T, D/2] float32 of the positions from `position` on, times the concentration."""
        return self._rotation_of(torch.arange(position, position + tokens, device=self.device))

    def _rotation_of(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions.float().unsqueeze(1) * self._frequencies
        return angles.cos() * self._concentration, angles.sin() * self._concentration


def rotary_frequencies(rope: Rope, head_dim: int) -> tuple[Tensor, float]:
    """Radians per position [D/2] float32, and what multiplies cos and sin (YaRN, arXiv:2309.00071, "NTK by parts")."""
    periods = rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if rope.yarn is None:
        return 1.0 / periods, 1.0
    low, high = _correction_range(rope.yarn, rope.theta, head_dim)
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    stretched = 1.0 / (rope.yarn.factor * periods)
    return stretched * ramp + (1.0 / periods) * (1 - ramp), rope.yarn.concentration


def _correction_range(yarn: Yarn, theta: float, head_dim: int) -> tuple[float, float]:
    """Between which frequencies stretching sets in: beta_fast and beta_slow turns per old context."""

    def dimension(turns: float) -> float:
        return head_dim * math.log(yarn.original_context_tokens / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(yarn.beta_fast), dimension(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return low, high if high != low else high + 0.001
