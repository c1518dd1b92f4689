"""The operations that a model is written in. Each kernel set implements all of them.

Letters in shapes: T new tokens, S cached positions, H query heads, K kv heads, Q query heads per kv head (H = K*Q),
D head dim, C hidden, F intermediate, E experts, A active experts, V vocabulary, G blocks per row. No batch axis.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gptoss_cli.engine.kv_cache import LayerCache
from gptoss_cli.engine.pinned_memory import PinnedRows
from gptoss_cli.engine.weights import AttentionWeights, LayerWeights, MlpWeights, Rows
from gptoss_cli.placement.model_config import ModelConfig


class Kernels(Protocol):
    """A kernel set: the module `reference`, or an instance of CpuKernels or CudaKernels.

    The residual stream `x` [T, C] is float32. `dtype` is the arithmetic: the input dtype of products and the dtype of
    cached keys and values. With bfloat16, scores, softmax, RoPE, the router and sums over experts are still float32.
    No operation keeps or changes its arguments, except for the cache.
    """

    def embed(self, ids: Tensor, embedding: Tensor | PinnedRows) -> Tensor:
        """Return the rows `ids` [T] int64 of `embedding` [V, C] -> x [T, C]. Only CudaKernels read PinnedRows."""

    def project_qkv(
        self, x: Tensor, weights: AttentionWeights, *, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute RMSNorm of x [T, C] and three products -> float32 queries [T, H*D], keys and values [T, K*D]."""

    def attend(
        self,
        qkv: tuple[Tensor, Tensor, Tensor],
        rotation: tuple[Tensor, Tensor],
        sinks: Tensor,
        cache: LayerCache,
        *,
        position: int,
    ) -> Tensor:
        """Rotate queries and keys, cache keys and values from `position` on, and attend -> [T, H*D] float32.

        `qkv` is the result of project_qkv. `rotation` is cos and sin [T, D/2] float32, half-split, concentration
        included. `sinks` [H] take part in the softmax, unscaled, and are dropped after it. Query head h reads kv head
        h // Q. A query at position p sees the keys k with p - window < k <= p; in a full layer, all k <= p.
        """

    def project_output(self, x: Tensor, attended: Tensor, weights: AttentionWeights, *, dtype: torch.dtype) -> Tensor:
        """Return x [T, C] plus the product of `attended` [T, H*D] with the output matrix -> [T, C]."""

    def route(self, x: Tensor, weights: MlpWeights, *, active: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Compute RMSNorm of x [T, C] and choose experts.

        Returns normed [T, C] float32, experts [T, A] int64 and expert_weights [T, A] float32. The expert weights of a
        token are the softmax of its `active` largest router logits.
        """

    def mix_experts(
        self, x: Tensor, routed: tuple[Tensor, Tensor, Tensor], weights: MlpWeights, *, limit: float, dtype: torch.dtype
    ) -> Tensor:
        """Return x [T, C] plus the sum of the chosen experts' outputs times the expert weights -> [T, C].

        `routed` is the result of route. An expert computes down(swiglu(gate_up(normed))). The even rows of gate_up are
        gate and the odd rows are up. SwiGLU is (up.clamp(-limit, limit) + 1) * gate * sigmoid(SWIGLU_ALPHA * gate),
        where gate is clamped from above only, by `limit`.
        """

    def unembed(self, x: Tensor, norm: Tensor, unembedding: Rows, *, eps: float, dtype: torch.dtype) -> Tensor:
        """Compute RMSNorm of x [T, C] by norm [C], and its product with unembedding [V, C] -> logits [T, V] float32."""


@runtime_checkable
class TokenDrawer(Protocol):
    """A kernel set that can also draw an id on its device."""

    def draw(self, logits: Tensor, excluded: Tensor, uniform: Tensor, *, temperature: float) -> Tensor:
        """Draw an id by the random number `uniform` [1] float64 -> [1] int64; -1 if any logit is NaN or infinite.

        `logits` are [V] float32, and `excluded` [V] u8 is not 0 at ids that must not be drawn. The id is the first at
        which the cumulative sum of the softmax exceeds `uniform`; at temperature 0, the first of the most likely ones.
        """


@runtime_checkable
class KernelCompiler(Protocol):
    """A kernel set that compiles its kernels when they are first used."""

    def compiling(self, report: Callable[[int, int], None]) -> AbstractContextManager[None]:
        """Return a context in which operations only compile what they need; results have no values.

        `report` is called with the number of kernels that are ready, and that of all. Leaving the context waits for
        them, and raises ResourceError, which names the kernel, if one does not compile.
        """


@runtime_checkable
class LayerDecoder(Protocol):
    """A kernel set that can also run all layers in one call, for one token."""

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
        """Run project_qkv, attend, project_output, route and mix_experts of every layer on x [1, C] -> [1, C]."""
