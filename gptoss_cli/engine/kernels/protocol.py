"""The operations a model is written in. Each module of this folder computes all of them, in its own way."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gptoss_cli.engine.kv_cache import LayerCache
from gptoss_cli.engine.weights import AttentionWeights, LayerWeights, MlpWeights, Rows
from gptoss_cli.placement.model_config import ModelConfig


class Kernels(Protocol):
    """What model.py asks of a module of operations.

    The residual stream `x` [T, C] is float32. `dtype` is the arithmetic: what products take as input and what is
    cached. In bfloat16, scores, softmax, RoPE, router and sums over experts are float32 all the same. An operation
    neither keeps nor changes its arguments, the cache excepted.
    """

    def embed(self, ids: Tensor, embedding: Tensor) -> Tensor:
        """Rows `ids` [T] int64 of `embedding` [V, C] -> x [T, C]."""

    def project_qkv(
        self, x: Tensor, weights: AttentionWeights, *, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """RMSNorm x [T, C], then three products -> float32 queries [T, H*D], keys and values [T, K*D]."""

    def attend(
        self,
        qkv: tuple[Tensor, Tensor, Tensor],
        rotation: tuple[Tensor, Tensor],
        sinks: Tensor,
        cache: LayerCache,
        *,
        position: int,
    ) -> Tensor:
        """Rotate queries and keys, cache keys and values from `position` on, attend -> [T, H*D] float32.

        `qkv` is what project_qkv gave; `rotation` is cos and sin [T, D/2] float32, half-split, concentration included;
        `sinks` [H] join the softmax unscaled and are dropped after it. Query head h reads kv head h // Q. A query at
        position p sees the keys k with p - window < k <= p, or all k <= p in a full layer.
        """

    def project_output(self, x: Tensor, attended: Tensor, weights: AttentionWeights, *, dtype: torch.dtype) -> Tensor:
        """x [T, C] plus the product of `attended` [T, H*D] -> [T, C]."""

    def route(self, x: Tensor, weights: MlpWeights, *, active: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """RMSNorm x [T, C] and choose experts -> normed [T, C] float32, experts [T, A] int64, shares [T, A] float32.

        The shares of a token are the softmax of its `active` largest router logits.
        """

    def mix_experts(
        self, x: Tensor, routed: tuple[Tensor, Tensor, Tensor], weights: MlpWeights, *, limit: float, dtype: torch.dtype
    ) -> Tensor:
        """x [T, C] plus the shared sum of what the chosen experts make of `normed` -> [T, C].

        `routed` is what route gave. An expert is down(swiglu(gate_up(normed))), with gate in the even rows and up in
        the odd: gate.clamp(max=limit), up.clamp(-limit, limit), then (up + 1) * gate * sigmoid(1.702 * gate).
        """

    def unembed(self, x: Tensor, norm: Tensor, unembedding: Rows, *, eps: float, dtype: torch.dtype) -> Tensor:
        """RMSNorm x [T, C] by norm [C], then the product with unembedding [V, C] -> logits [T, V] float32."""


@runtime_checkable
class LayerDecoder(Protocol):
    """Kernels that have all layers in one operation besides, for one token."""

    def decode_layers(
        self,
        x: Tensor,
        layers: Sequence[LayerWeights],
        caches: Sequence[LayerCache],
        rotation: tuple[Tensor, Tensor],
        *,
        position: int,
        config: ModelConfig,
        dtype: torch.dtype,
    ) -> Tensor:
        """x [1, C] through project_qkv, attend, project_output, route and mix_experts of every layer -> [1, C]."""
