"""The operations of `Kernels` on an NVIDIA GPU: Triton kernels, and torch for dense products of several tokens.

Weights are read as they lie in the checkpoint. The operations of one token need nothing from the host but addresses, so
that they can be captured in a CUDA graph; see cuda_graph.py.
"""

from collections import deque
from collections.abc import Iterator

import torch
import triton
from torch import Tensor

from gptoss_cli.engine.expert_offload import PackedExperts, PlacedExperts
from gptoss_cli.engine.kernels import reference, triton_decode, triton_prefill
from gptoss_cli.engine.kernels.tuning import TUNING, UPCAST, PrefillTuning, Tuning
from gptoss_cli.engine.kv_cache import FullLayer, LayerCache
from gptoss_cli.engine.weights import AttentionWeights, MlpWeights, Rows
from gptoss_cli.placement.model_config import SWIGLU_ALPHA

_SMALL_KEYS = 256  # experts whose numbers fit in a byte
_SHORT_WINDOW = 256  # up to this many keys are not worth splitting
# Triton 3.9 warns that 3.10 changes the default. Without fusion kernels are slower and sums differ.
_OPTIONS = {"enable_fp_fusion": True}


class CudaKernels:
    """See Kernels. Experts must be PlacedExperts. On the CPU the kernels run in Triton's interpreter."""

    def __init__(self, tuning: Tuning = TUNING) -> None:
        self._tuning = tuning
        self._compiled: set[torch.dtype] = set()  # the arithmetic for which every tile size has been compiled
        self._staging: torch.cuda.Stream | None = None

    def _prefill_tuning(self, dtype: torch.dtype) -> PrefillTuning:
        return UPCAST if dtype is torch.float32 and not self._tuning.prefill.upcast else self._tuning.prefill

    def embed(self, ids: Tensor, embedding: Tensor) -> Tensor:
        """See Kernels.embed."""
        return reference.embed(ids, embedding)

    def project_qkv(
        self, x: Tensor, weights: AttentionWeights, *, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See Kernels.project_qkv."""
        if len(x) > 1:
            return reference.project_qkv(x, weights, eps=eps, dtype=dtype)
        tuning, parts = self._tuning, (weights.query, weights.key, weights.value)
        rows = [len(part.weight) for part in parts]
        query, key, value = (x.new_empty(1, count) for count in rows)
        triton_decode.qkv_kernel[(sum(triton.cdiv(count, tuning.rows) for count in rows),)](
            x, weights.norm, *(part for linear in parts for part in (linear.weight, linear.bias)), query, key, value,
            eps, QUERY=rows[0], KEY=rows[1], K=x.shape[1], ROWS=tuning.rows, WIDTH=tuning.width,
            ROUND=dtype is torch.bfloat16, num_warps=tuning.warps, **_OPTIONS,
        )  # fmt: skip
        return query, key, value

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
        queries, keys, values = qkv
        if len(queries) > 1:
            return self._attend_prefill(qkv, rotation, sinks, cache, position=position)
        tuning, half = self._tuning, rotation[0].shape[1]
        heads, kv_heads = queries.shape[1] // (2 * half), keys.shape[1] // (2 * half)
        slots, (cached_keys, cached_values) = cache.slots(position + 1), cache.buffers()
        window = 0 if isinstance(cache, FullLayer) else slots
        splits = 1 if 0 < window <= _SHORT_WINDOW else tuning.splits
        group, dim_width = heads // kv_heads, max(16, triton.next_power_of_2(2 * half))
        rotated, attended = torch.empty_like(queries), torch.empty_like(queries)
        partial = queries.new_empty(kv_heads * splits * group * (2 + 2 * half))
        triton_decode.rotate_kernel[(heads + kv_heads,)](
            queries, keys, values, *rotation, cache.position, rotated, cached_keys, cached_values,
            HEADS=heads, KV_HEADS=kv_heads, HALF=half, HALF_WIDTH=triton.next_power_of_2(half), WINDOW=window,
            num_warps=1, **_OPTIONS,
        )  # fmt: skip
        triton_decode.attend_kernel[(kv_heads, splits)](
            rotated, cached_keys, cached_values, sinks, cache.position, partial, attended, (2 * half) ** -0.5,
            KV_HEADS=kv_heads, GROUP=group, D=2 * half, GROUP_WIDTH=max(16, triton.next_power_of_2(group)),
            D_WIDTH=dim_width, KEYS=tuning.keys, SPLITS=splits, WINDOW=window, num_warps=tuning.warps, **_OPTIONS,
        )  # fmt: skip
        if splits > 1:
            triton_decode.combine_kernel[(heads,)](
                partial, sinks, attended, GROUP=group, D=2 * half, D_WIDTH=dim_width, SPLITS=splits,
                num_warps=1, **_OPTIONS,
            )  # fmt: skip
        return attended

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
        queries, attended = reference.rotate(queries, rotation), torch.empty_like(qkv[0])
        tuning = self._prefill_tuning(visible.keys.dtype)
        triton_prefill.attend_prefill_kernel[(triton.cdiv(len(queries), tuning.queries), queries.shape[1])](
            queries, visible.keys, visible.values, sinks, attended, head_dim**-0.5,
            len(queries), position, visible.first, len(visible.keys),
            HEADS=queries.shape[1], KV_HEADS=keys.shape[1], D=head_dim,
            D_WIDTH=max(16, triton.next_power_of_2(head_dim)), ROWS=tuning.queries, KEYS=tuning.keys,
            WINDOW=visible.window or 0, UPCAST=tuning.upcast, num_warps=tuning.attention_warps, **_OPTIONS,
        )  # fmt: skip
        return attended

    def project_output(self, x: Tensor, attended: Tensor, weights: AttentionWeights, *, dtype: torch.dtype) -> Tensor:
        """See Kernels.project_output."""
        if len(x) > 1:
            return reference.project_output(x, attended, weights, dtype=dtype)
        tuning, columns, projected = self._tuning, x.shape[1], torch.empty_like(x)
        triton_decode.output_kernel[(triton.cdiv(columns, tuning.rows),)](
            x, attended, weights.output.weight, weights.output.bias, projected,
            C=columns, K=attended.shape[1], ROWS=tuning.rows, WIDTH=tuning.width, ROUND=dtype is torch.bfloat16,
            num_warps=tuning.warps, **_OPTIONS,
        )  # fmt: skip
        return projected

    def route(self, x: Tensor, weights: MlpWeights, *, active: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """See Kernels.route."""
        if len(x) > 1:
            return reference.route(x, weights, active=active, eps=eps)
        tuning, columns, experts = self._tuning, x.shape[1], len(weights.router.bias)
        normed, logits = torch.empty_like(x), x.new_empty(experts)
        chosen, expert_weights = x.new_empty(1, active, dtype=torch.int64), x.new_empty(1, active)
        triton_decode.router_kernel[(triton.cdiv(experts, tuning.rows),)](
            x, weights.norm, weights.router.weight, weights.router.bias, normed, logits, eps,
            E=experts, K=columns, ROWS=tuning.rows, WIDTH=tuning.width, num_warps=tuning.warps, **_OPTIONS,
        )  # fmt: skip
        triton_decode.top_k_kernel[(1,)](
            logits, chosen, expert_weights, _placed(weights.gate_up).uses,
            E=experts, A=active, E_WIDTH=triton.next_power_of_2(experts), A_WIDTH=triton.next_power_of_2(active),
            num_warps=1, **_OPTIONS,
        )  # fmt: skip
        return normed, chosen, expert_weights

    def mix_experts(
        self, x: Tensor, routed: tuple[Tensor, Tensor, Tensor], weights: MlpWeights, *, limit: float, dtype: torch.dtype
    ) -> Tensor:
        """See Kernels.mix_experts."""
        gate_up, down = _placed(weights.gate_up), _placed(weights.down)
        if len(x) > 1:
            if all(gate_up.resident):
                return self._mix_grouped(x, routed, (gate_up, down), limit=limit, dtype=dtype)
            return _mix_streamed(x, routed, (gate_up, down), self._staging_stream(x), limit=limit, dtype=dtype)
        normed, experts, expert_weights = routed
        tuning, columns, active, intermediate = self._tuning, x.shape[1], experts.shape[1], gate_up.bias.shape[1] // 2
        hidden, mixed = x.new_empty(active, intermediate), torch.empty_like(x)
        inputs = x.new_empty(8, columns // 8)
        triton_decode.deinterleave_kernel[(triton.cdiv(columns, tuning.width),)](
            normed, inputs, K=columns, WIDTH=tuning.width, ROUND=dtype is torch.bfloat16,
            num_warps=tuning.warps, **_OPTIONS,
        )  # fmt: skip
        triton_decode.gate_up_kernel[(triton.cdiv(intermediate, tuning.packed_rows), active)](
            inputs, experts, *gate_up.addresses, gate_up.bias, hidden, limit, SWIGLU_ALPHA,
            F=intermediate, WORDS=columns // 8, ROWS=tuning.packed_rows, WIDTH=tuning.packed_width,
            ROUND=dtype is torch.bfloat16, num_warps=tuning.packed_warps, **_OPTIONS,
        )  # fmt: skip
        triton_decode.down_kernel[(triton.cdiv(columns, tuning.packed_rows),)](
            x, hidden, experts, expert_weights, *down.addresses, down.bias, mixed,
            C=columns, A=active, WORDS=intermediate // 8, ROWS=tuning.packed_rows, WIDTH=tuning.down_width,
            num_warps=tuning.packed_warps, **_OPTIONS,
        )  # fmt: skip
        return mixed

    def _staging_stream(self, x: Tensor) -> torch.cuda.Stream | None:
        """Return the stream for copies of experts. There is only one: the allocator keeps a memory pool per stream."""
        if self._staging is None and x.is_cuda:
            self._staging = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        return self._staging

    def _mix_grouped(
        self,
        x: Tensor,
        routed: tuple[Tensor, Tensor, Tensor],
        weights: tuple[PlacedExperts, PlacedExperts],
        *,
        limit: float,
        dtype: torch.dtype,
    ) -> Tensor:
        """Run all experts at once. Weights are dequantized in registers, and nothing waits for the host."""
        tuning = self._prefill_tuning(dtype)
        if dtype not in self._compiled:
            # The first call belongs to the start-up check, so that no prompt has to wait for the compiler later.
            self._compiled.add(dtype)
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
        order, row_ends, tile_ends = _grouped(experts.flatten(), count, size)
        product_dtype = torch.float32 if tuning.upcast else torch.bfloat16
        inputs = normed.to(dtype).to(product_dtype).view(tokens, columns // 2, 2).permute(2, 0, 1).contiguous()
        hidden, outputs = inputs.new_empty(2, slots, intermediate // 2), x.new_empty(tokens, active, columns)
        tiles = triton.cdiv(slots, size) + min(count, slots)  # an upper bound
        common = {
            "E": count, "E_WIDTH": triton.next_power_of_2(count), "ROWS": tuning.rows, "TOKENS": size,
            "BYTES": tuning.width, "UPCAST": tuning.upcast, "num_warps": tuning.warps, **_OPTIONS,
        }  # fmt: skip
        triton_prefill.grouped_gate_up_kernel[(tiles, triton.cdiv(intermediate, tuning.rows))](
            inputs, order, row_ends, tile_ends, *_byte_addresses(gate_up), gate_up.bias, hidden, limit, SWIGLU_ALPHA,
            tokens, slots, A=active, F=intermediate, K=columns, ROUND=dtype is torch.bfloat16, **common,
        )  # fmt: skip
        triton_prefill.grouped_down_kernel[(tiles, triton.cdiv(columns, tuning.rows))](
            hidden, order, expert_weights, row_ends, tile_ends, *_byte_addresses(down), down.bias, outputs, slots,
            C=columns, F=intermediate, **common,
        )  # fmt: skip
        return outputs.sum(1)

    def unembed(self, x: Tensor, norm: Tensor, unembedding: Rows, *, eps: float, dtype: torch.dtype) -> Tensor:
        """See Kernels.unembed."""
        if len(x) > 1:
            return reference.unembed(x, norm, unembedding, eps=eps, dtype=dtype)
        tuning, logits = self._tuning, x.new_empty(1, len(unembedding))
        triton_decode.unembed_kernel[(triton.cdiv(len(unembedding), tuning.rows),)](
            x, norm, unembedding, logits, eps, len(unembedding),
            K=x.shape[1], ROWS=tuning.rows, WIDTH=tuning.width, ROUND=dtype is torch.bfloat16,
            num_warps=tuning.warps, **_OPTIONS,
        )  # fmt: skip
        return logits


def _tile_tokens(tuning: PrefillTuning, mean: float) -> int:
    """Return the smallest tile for the `mean` number of tokens per expert, or the largest there is."""
    return next((size for size in tuning.tokens if size >= mean), tuning.tokens[-1])


def _grouped(experts: Tensor, count: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sort slots by their `experts` [slots] -> order [slots], and the end of each expert's rows and tiles [E] int32."""
    # A radix sort takes a pass for each byte of its keys.
    keys = torch.uint8 if count <= _SMALL_KEYS else torch.int16
    ordered, order = experts.to(keys).sort(stable=True)
    row_ends = torch.searchsorted(ordered, torch.arange(count, device=experts.device).to(keys), right=True)
    rows = row_ends.diff(prepend=row_ends.new_zeros(1))
    return order, row_ends.int(), (-(-rows // size)).cumsum(0).int()


def _byte_addresses(experts: PlacedExperts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return `experts.addresses` with the blocks as bytes."""
    block_offsets, scale_offsets, blocks, scales = experts.addresses
    return block_offsets, scale_offsets, blocks.view(torch.uint8), scales


def _mix_streamed(
    x: Tensor,
    routed: tuple[Tensor, Tensor, Tensor],
    weights: tuple[PlacedExperts, PlacedExperts],
    stream: torch.cuda.Stream | None,
    *,
    limit: float,
    dtype: torch.dtype,
) -> Tensor:
    """Run one expert at a time, as the reference does, while the next one is being copied to the device."""
    normed, experts, expert_weights = routed
    order = experts.flatten().argsort(stable=True)
    counts = torch.bincount(experts.flatten(), minlength=len(weights[0].bias)).tolist()
    inputs, mixed = normed.to(dtype), torch.zeros_like(x)
    used = [expert for expert, count in enumerate(counts) if count]
    rows = torch.split(order, [counts[expert] for expert in used])
    for (gate_up, down), slots in zip(_fetch(weights, used, stream), rows, strict=True):
        tokens = slots // experts.shape[1]
        outputs = reference.run_experts(inputs[tokens].unsqueeze(0), gate_up, down, limit).squeeze(0)
        mixed.index_add_(0, tokens, outputs * expert_weights.flatten()[slots, None])
    return x + mixed


def _fetch(
    weights: tuple[PlacedExperts, PlacedExperts], experts: list[int], stream: torch.cuda.Stream | None
) -> Iterator[tuple[PackedExperts, PackedExperts]]:
    """Yield both matrices of each expert on the device. The copy of the next one, on `stream`, is started before."""
    gate_up, down = weights
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream())
    pending = deque[tuple[PackedExperts, PackedExperts, torch.cuda.Event | None]]()
    for expert in [*experts, None]:
        if expert is not None:
            parts = gate_up.on_device(expert, stream), down.on_device(expert, stream)
            pending.append((*parts, None if stream is None else stream.record_event()))
        if len(pending) == 2 or (expert is None and pending):
            yield _wait_for_copy(*pending.popleft())


def _wait_for_copy(
    gate_up: PackedExperts, down: PackedExperts, event: torch.cuda.Event | None
) -> tuple[PackedExperts, PackedExperts]:
    if event is not None:
        stream = torch.cuda.current_stream()
        stream.wait_event(event)
        for tensor in (gate_up.blocks, gate_up.scales, down.blocks, down.scales):
            tensor.record_stream(stream)
    return gate_up, down


def _placed(experts: PackedExperts | PlacedExperts) -> PlacedExperts:
    assert isinstance(experts, PlacedExperts), "the loader places the experts of a GPU"
    return experts
