"""The gpt-oss transformer, written once over the operations of `kernels`: their order, and no arithmetic of its own."""

import math

import torch
from torch import Tensor

from gptoss_cli.engine.cache import Cache, LayerCache
from gptoss_cli.engine.config import ModelConfig, Rope, Yarn
from gptoss_cli.engine.kernels import Kernels
from gptoss_cli.engine.weights import LayerWeights, ModelWeights


class Model:
    """Weights, arithmetic and the operations to run them with. Holds no sequence: that is the cache's."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, kernels: Kernels, dtype: torch.dtype) -> None:
        self.config = config
        self.kernels = kernels
        self._weights = weights
        self._dtype = dtype
        self.device = weights.embedding.device
        self._frequencies, self._concentration = rotary_frequencies(config.rope, config.head_dim)

    def new_cache(self, context_tokens: int) -> Cache:
        """An empty cache in this model's arithmetic, on its device."""
        return Cache(self.config, context_tokens=context_tokens, dtype=self._dtype, device=str(self.device))

    def read(self, ids: list[int], cache: Cache) -> Tensor:
        """Run tokens ids [T] at the end of `cache`, and cache them -> hidden states [T, C] float32 for `unembed`."""
        position = cache.length
        rotation = self._rotation(position, len(ids))
        x = self.kernels.embed(torch.tensor(ids, device=self.device), self._weights.embedding)
        for weights, layer_cache in zip(self._weights.layers, cache.layers, strict=True):
            x = self._layer(x, weights, layer_cache, rotation=rotation, position=position)
        cache.advance(len(ids))
        return x

    def unembed(self, hidden: Tensor) -> Tensor:
        """Hidden states [T, C] -> logits [T, V] float32."""
        weights, eps = self._weights, self.config.norm_eps
        return self.kernels.unembed(hidden, weights.final_norm, weights.unembedding, eps=eps, dtype=self._dtype)

    def decode_bytes(self) -> int:
        """Bytes of weights that one token reads."""
        share = self.config.active_experts / self.config.experts
        total = float(self._weights.unembedding.nbytes)
        for layer in self._weights.layers:
            attention, mlp = layer.attention, layer.mlp
            linears = (attention.query, attention.key, attention.value, attention.output, mlp.router)
            total += sum(linear.weight.nbytes for linear in linears)
            total += sum(packed.blocks.nbytes + packed.scales.nbytes for packed in (mlp.gate_up, mlp.down)) * share
        return round(total)

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
        positions = torch.arange(position, position + tokens, dtype=torch.float32)
        angles = positions.unsqueeze(1) * self._frequencies
        cos, sin = angles.cos() * self._concentration, angles.sin() * self._concentration
        return cos.to(self.device), sin.to(self.device)


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
