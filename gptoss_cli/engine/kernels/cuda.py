"""The operations of `Kernels` on an NVIDIA GPU: Triton kernels, and torch for dense products of several tokens.

Weights are read as they lie in the checkpoint. The operations of one token need nothing from the host but addresses, so
that they can be captured in a CUDA graph; see cuda_graph.py.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
import triton
from torch import Tensor

from gptoss_cli.engine.expert_offload import PlacedExperts
from gptoss_cli.engine.expert_staging import StagedPart, Staging
from gptoss_cli.engine.kernels import reference, triton_prefill
from gptoss_cli.engine.kernels.compilation import compiling, is_compiling
from gptoss_cli.engine.kernels.cuda_decode import OPTIONS, OneTokenKernels, placed
from gptoss_cli.engine.kernels.tuning import TUNING, UPCAST, PrefillTuning, Tuning
from gptoss_cli.engine.kv_cache import LayerCache
from gptoss_cli.engine.pinned_memory import PinnedRows
from gptoss_cli.engine.weights import AttentionWeights, LayerWeights, MlpWeights, Rows
from gptoss_cli.placement.memory import STAGING_BYTES
from gptoss_cli.placement.model_config import SWIGLU_ALPHA, ModelConfig

_SMALL_KEYS = 256  # experts whose numbers fit in a byte


class CudaKernels:
    """See Kernels. Experts must be PlacedExperts. On the CPU the kernels run in Triton's interpreter."""

    def __init__(self, tuning: Tuning = TUNING, *, staging_bytes: int = STAGING_BYTES) -> None:
        self._tuning = tuning
        self._staging = Staging(staging_bytes)
        self._one = OneTokenKernels(tuning)

    def _prefill_tuning(self, dtype: torch.dtype) -> PrefillTuning:
        return UPCAST if dtype is torch.float32 and not self._tuning.prefill.upcast else self._tuning.prefill

    def compiling(self, report: Callable[[int, int], None]) -> AbstractContextManager[None]:
        """See KernelCompiler.compiling."""
        return compiling(report)

    def embed(self, ids: Tensor, embedding: Tensor | PinnedRows) -> Tensor:
        """See Kernels.embed."""
        return self._one.embed(ids, embedding) if isinstance(embedding, PinnedRows) else reference.embed(ids, embedding)

    def project_qkv(
        self, x: Tensor, weights: AttentionWeights, *, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See Kernels.project_qkv."""
        if len(x) > 1:
            return reference.project_qkv(x, weights, eps=eps, dtype=dtype)
        return self._one.project_qkv(x, weights, eps=eps)

    def attend(
        self,
        qkv: tuple[Tensor, Tensor, Tensor],
        rotation: tuple[Tensor, Tensor],
        sinks: Tensor,
        cache: LayerCache,
        *,
        position: int,
    ) -> Tensor:
        """See Kernels.attend. For one token the position is read from `cache.position`, on the device."""
        if len(qkv[0]) > 1:
            return self._attend_prefill(qkv, rotation, sinks, cache, position=position)
        return self._one.attend(qkv, rotation, sinks, cache, position=position)

    def _attend_prefill(
        self,
        qkv: tuple[Tensor, Tensor, Tensor],
        rotation: tuple[Tensor, Tensor],
        sinks: Tensor,
        cache: LayerCache,
        *,
        position: int,
    ) -> Tensor:
        head_dim = 2 * rotation[0].shape[1]
        queries, keys, values = (part.view(len(part), -1, head_dim) for part in qkv)
        visible = cache.append(reference.rotate(keys, rotation), values, position)
        attended = torch.empty_like(qkv[0])
        tuning = self._prefill_tuning(visible.keys.dtype)
        triton_prefill.attend_prefill_kernel[(triton.cdiv(len(queries), tuning.queries), queries.shape[1])](
            queries, *rotation, visible.keys, visible.values, sinks, attended, head_dim**-0.5 * math.log2(math.e),
            len(queries), position, visible.first, len(visible.keys),
            HEADS=queries.shape[1], KV_HEADS=keys.shape[1], D=head_dim,
            D_WIDTH=max(16, triton.next_power_of_2(head_dim)), ROWS=tuning.queries, KEYS=tuning.keys,
            WINDOW=visible.window or 0, UPCAST=tuning.upcast, num_warps=tuning.attention_warps, **OPTIONS,
        )  # fmt: skip
        return attended

    def project_output(self, x: Tensor, attended: Tensor, weights: AttentionWeights, *, dtype: torch.dtype) -> Tensor:
        """See Kernels.project_output."""
        if len(x) > 1:
            return reference.project_output(x, attended, weights, dtype=dtype)
        return self._one.project_output(x, attended, weights)

    def route(self, x: Tensor, weights: MlpWeights, *, active: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """See Kernels.route."""
        if len(x) > 1:
            return reference.route(x, weights, active=active, eps=eps)
        return self._one.route(x, weights, active=active, eps=eps, dtype=torch.bfloat16)[0]

    def mix_experts(
        self, x: Tensor, routed: tuple[Tensor, Tensor, Tensor], weights: MlpWeights, *, limit: float, dtype: torch.dtype
    ) -> Tensor:
        """See Kernels.mix_experts."""
        gate_up, down = placed(weights.gate_up), placed(weights.down)
        if len(x) > 1:
            return self._mix_grouped(x, routed, (gate_up, down), limit=limit, dtype=dtype)
        return self._one.mix_experts(x, routed, (gate_up, down), limit=limit, dtype=dtype)

    def draw(self, logits: Tensor, excluded: Tensor, uniform: Tensor, *, temperature: float) -> Tensor:
        """See TokenDrawer.draw."""
        return self._one.draw(logits, excluded, uniform, temperature=temperature)

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
        """See LayerDecoder.decode_layers."""
        return self._one.decode_layers(x, layers, caches, rotation, position=position, config=config, dtype=dtype)

    def _mix_grouped(
        self,
        x: Tensor,
        routed: tuple[Tensor, Tensor, Tensor],
        weights: tuple[PlacedExperts, PlacedExperts],
        *,
        limit: float,
        dtype: torch.dtype,
    ) -> Tensor:
        """Run all experts at once, or in parts. Weights are dequantized in registers.

        Nothing waits for the host if all experts are on the GPU.
        """
        tuning = self._prefill_tuning(dtype)
        if is_compiling():  # no prompt has to wait for another size later
            for size in tuning.tokens:
                self._mix_tiles(x, routed, weights, size, limit=limit, dtype=dtype)
        size = _tile_tokens(tuning, routed[1].numel() / len(weights[0].bias))
        return x + self._mix_tiles(x, routed, weights, size, limit=limit, dtype=dtype)

    def _mix_tiles(
        self,
        x: Tensor,
        routed: tuple[Tensor, Tensor, Tensor],
        weights: tuple[PlacedExperts, PlacedExperts],
        size: int,
        *,
        limit: float,
        dtype: torch.dtype,
    ) -> Tensor:
        """Return the weighted sum over experts [T, C], computed in tiles of `size` tokens."""
        (normed, experts, expert_weights), (gate_up, down) = routed, weights
        tuning, (tokens, columns) = self._prefill_tuning(dtype), x.shape
        active, count = experts.shape[1], len(gate_up.bias)
        intermediate, slots = gate_up.bias.shape[1] // 2, tokens * active
        order, row_ends = _grouped(experts.flatten(), count)
        product_dtype = torch.float32 if tuning.upcast else torch.bfloat16
        inputs = normed.to(dtype).to(product_dtype).view(tokens, columns // 2, 2).permute(2, 0, 1).contiguous()
        hidden, outputs = inputs.new_empty(2, slots, intermediate // 2), x.new_empty(tokens, active, columns)
        tiles = triton.cdiv(slots, size) + min(count, slots)  # an upper bound
        common = {
            "E": count, "E_WIDTH": triton.next_power_of_2(count), "ROWS": tuning.rows, "TOKENS": size,
            "BYTES": tuning.width, "UPCAST": tuning.upcast,
            "PTX": x.is_cuda and torch.version.hip is None and not tuning.upcast, "num_warps": tuning.warps,
            "num_stages": tuning.stages, **OPTIONS,
        }  # fmt: skip
        for part in self._staging.parts(gate_up, down, slots):
            tile_ends = _tile_ends(row_ends, size, part)
            triton_prefill.grouped_gate_up_kernel[(tiles, triton.cdiv(intermediate, tuning.rows))](
                inputs, order, row_ends, tile_ends, *part.gate_up, *gate_up.slot_bytes, gate_up.bias, hidden, limit,
                SWIGLU_ALPHA, tokens, slots, A=active, F=intermediate, K=columns, ROUND=dtype is torch.bfloat16,
                **common,
            )  # fmt: skip
            triton_prefill.grouped_down_kernel[(tiles, triton.cdiv(columns, tuning.rows))](
                hidden, order, expert_weights, row_ends, tile_ends, *part.down, *down.slot_bytes, down.bias, outputs,
                slots, C=columns, F=intermediate, **common,
            )  # fmt: skip
        return outputs.sum(1)

    def unembed(self, x: Tensor, norm: Tensor, unembedding: Rows, *, eps: float, dtype: torch.dtype) -> Tensor:
        """See Kernels.unembed."""
        if len(x) > 1:
            return reference.unembed(x, norm, unembedding, eps=eps, dtype=dtype)
        return self._one.unembed(x, norm, unembedding, eps=eps)


def _tile_tokens(tuning: PrefillTuning, mean: float) -> int:
    """Return the smallest tile for the `mean` number of tokens per expert, or the largest there is."""
    return next((size for size in tuning.tokens if size >= mean), tuning.tokens[-1])


def _grouped(experts: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sort slots by their `experts` [slots] -> order [slots], and the end of each expert's rows [E] int32."""
    # A radix sort takes a pass for each byte of its keys.
    keys = torch.uint8 if count <= _SMALL_KEYS else torch.int16
    ordered, order = experts.to(keys).sort(stable=True)
    row_ends = torch.searchsorted(ordered, torch.arange(count, device=experts.device).to(keys), right=True)
    return order, row_ends.int()


def _tile_ends(row_ends: Tensor, size: int, part: StagedPart) -> Tensor:
    """Return the end of each expert's tiles of `size` rows [E] int32. Only experts of `part` have tiles."""
    tiles = -(-row_ends.diff(prepend=row_ends.new_zeros(1)) // size)
    if part.included is not None:
        tiles = tiles * part.included
    return tiles.cumsum(0).int()
