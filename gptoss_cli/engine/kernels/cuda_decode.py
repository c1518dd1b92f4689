"""The operations of one token on a GPU: they launch the kernels of triton_*.py.

A layer takes six kernels. They need nothing from the host but addresses, so that they can be captured in a CUDA graph;
see cuda_graph.py.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from gptoss_cli.engine.expert_offload import LayerSlots, PackedExperts, PlacedExperts
from gptoss_cli.engine.kernels import triton_decode, triton_experts, triton_offload, triton_sampling
from gptoss_cli.engine.kernels.tuning import Tuning
from gptoss_cli.engine.kv_cache import FullLayer, LayerCache
from gptoss_cli.engine.pinned_memory import PinnedRows
from gptoss_cli.engine.weights import AttentionWeights, LayerWeights, MlpWeights, Rows
from gptoss_cli.placement.model_config import SWIGLU_ALPHA, ModelConfig

# Triton 3.9 warns that 3.10 changes the default. Without fusion kernels are slower and sums differ.
OPTIONS = {"enable_fp_fusion": True}
_SHORT_WINDOW = 256  # up to this many keys are not worth splitting
_UPCAST_KEYS = 32  # float32 products of more keys at once spill
_BLOCK_LOGITS = 1024
_MOST_ROUNDS = 4  # of a row whose loads are all issued at once
# What the hidden values of an expert and the sums of their products are multiplied by in float32.
_FLOAT_FACTORS = triton_experts.INPUT_FACTOR.value, triton_experts.SUM_FACTOR.value


class OneTokenKernels:
    """The operations of Kernels, LayerDecoder and TokenDrawer for one token, with experts that are PlacedExperts."""

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self._counters: dict[int, Tensor] = {}

    def embed(self, ids: Tensor, embedding: PinnedRows) -> Tensor:
        """See Kernels.embed. The rows are read over the link; ids may be known on the device only."""
        columns = embedding.shape[1]
        x = torch.empty(len(ids), columns, device=embedding.device)
        triton_offload.embed_kernel[(len(ids),)](
            ids, embedding.base, embedding.offset, x, C=columns, WIDTH=triton.next_power_of_2(columns),
            num_warps=self._tuning.warps, **OPTIONS,
        )  # fmt: skip
        return x

    def project_qkv(self, x: Tensor, weights: AttentionWeights, *, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """See Kernels.project_qkv."""
        tuning, parts = self._tuning, (weights.query, weights.key, weights.value)
        rows, columns = [len(part.weight) for part in parts], x.shape[1]
        qkv = x.new_empty(1, sum(rows))
        triton_decode.qkv_kernel[(sum(triton.cdiv(count, tuning.rows) for count in rows),)](
            x, weights.norm, *(part for linear in parts for part in (linear.weight, linear.bias)), qkv, eps,
            QUERY=rows[0], KEY=rows[1], K=columns, ROWS=tuning.rows, WIDTH=_round_width(columns),
            **self._options(x),
        )  # fmt: skip
        query, key, value = torch.split(qkv, rows, 1)
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
        """See Kernels.attend. The position is read from `cache.position`, on the device."""
        queries, keys, values = qkv
        tuning, head_dim = self._tuning, 2 * rotation[0].shape[1]
        heads, kv_heads = queries.shape[1] // head_dim, keys.shape[1] // head_dim
        slots, (cached_keys, cached_values) = cache.slots(position + 1), cache.buffers()
        window = 0 if isinstance(cache, FullLayer) else slots
        splits = 1 if 0 < window <= _SHORT_WINDOW else tuning.splits
        upcast = tuning.prefill.upcast or cached_keys.dtype is torch.float32
        group, group_width = heads // kv_heads, max(8, triton.next_power_of_2(heads // kv_heads))
        dim_width = max(16, triton.next_power_of_2(head_dim))
        attended, maxima = torch.empty_like(queries), queries.new_empty(kv_heads, splits, group_width)
        triton_decode.attend_kernel[(kv_heads, splits)](
            queries, keys, values, *rotation, sinks, cache.position, cached_keys, cached_values,
            queries.new_empty(*maxima.shape, dim_width), maxima, torch.empty_like(maxima),
            self._arrived(kv_heads, queries.device), attended, head_dim**-0.5 * math.log2(math.e),
            KV_HEADS=kv_heads, GROUP=group, D=head_dim, GROUP_WIDTH=group_width, D_WIDTH=dim_width,
            KEYS=min(tuning.keys, _UPCAST_KEYS) if upcast else tuning.keys, SPLITS=splits, CHUNK=min(splits, 16),
            WINDOW=window, UPCAST=upcast, **self._options(queries),
        )  # fmt: skip
        return attended

    def project_output(self, x: Tensor, attended: Tensor, weights: AttentionWeights) -> Tensor:
        """See Kernels.project_output."""
        tuning, columns, projected = self._tuning, x.shape[1], torch.empty_like(x)
        triton_decode.output_kernel[(triton.cdiv(columns, tuning.rows),)](
            x, attended, weights.output.weight, weights.output.bias, projected,
            C=columns, K=attended.shape[1], ROWS=tuning.rows, WIDTH=_round_width(attended.shape[1]),
            **self._options(x),
        )  # fmt: skip
        return projected

    def route(
        self, x: Tensor, weights: MlpWeights, *, active: int, eps: float, dtype: torch.dtype
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return what Kernels.route returns, and for `dtype` the inputs of experts and the factor of their sums."""
        routed, inputs, _ = self._route(x, weights, active=active, eps=eps, dtype=dtype, looks_up=False)
        return routed, inputs

    def _route(
        self, x: Tensor, weights: MlpWeights, *, active: int, eps: float, dtype: torch.dtype, looks_up: bool
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
        """Return what `route` returns, and the slots of the experts, which are only valid if it `looks_up` them."""
        tuning, columns, experts = self._tuning, x.shape[1], len(weights.router.bias)
        normed, logits, (inputs, sum_factor) = torch.empty_like(x), x.new_empty(experts), _new_inputs(x, dtype)
        chosen, expert_weights = x.new_empty(1, active, dtype=torch.int64), x.new_empty(1, active)
        slots, chosen_slots = placed(weights.gate_up).slots, chosen.new_empty(2, active)
        triton_decode.router_kernel[(triton.cdiv(experts, tuning.router_rows),)](
            x, weights.norm, weights.router.weight, weights.router.bias, normed, inputs, sum_factor, logits,
            self._arrived(1, x.device), chosen, expert_weights, *_slot_state(slots), chosen_slots, slots.replaceable,
            eps, E=experts, A=active, K=columns, ROWS=tuning.router_rows, WIDTH=_round_width(columns),
            E_WIDTH=triton.next_power_of_2(experts), A_WIDTH=triton.next_power_of_2(active),
            PAIRS=dtype is torch.bfloat16, OFFLOADED=looks_up and slots.are_offloaded, **self._options(x),
        )  # fmt: skip
        return (normed, chosen, expert_weights), (inputs, sum_factor), chosen_slots

    def mix_experts(
        self,
        x: Tensor,
        routed: tuple[Tensor, Tensor, Tensor],
        weights: tuple[PlacedExperts, PlacedExperts],
        *,
        limit: float,
        dtype: torch.dtype,
    ) -> Tensor:
        """See Kernels.mix_experts."""
        columns, (inputs, sum_factor) = x.shape[1], _new_inputs(x, dtype)
        (normed, chosen, expert_weights), slots = routed, weights[0].slots
        (experts,), active, chosen_slots = slots.held.shape, chosen.shape[1], chosen.new_empty(2, chosen.shape[1])
        triton_experts.pack_kernel[(1,)](
            normed, chosen, inputs, sum_factor, *_slot_state(slots), chosen_slots, slots.replaceable,
            E=experts, A=active, K=columns, WIDTH=triton.next_power_of_2(columns),
            E_WIDTH=triton.next_power_of_2(experts), A_WIDTH=triton.next_power_of_2(active),
            PAIRS=dtype is torch.bfloat16, OFFLOADED=slots.are_offloaded, num_warps=self._tuning.warps, **OPTIONS,
        )  # fmt: skip
        return self._mix_packed(x, (inputs, sum_factor), (chosen, expert_weights, chosen_slots), weights, limit=limit)

    def _mix_packed(
        self,
        x: Tensor,
        packed: tuple[Tensor, Tensor],
        chosen: tuple[Tensor, Tensor, Tensor],
        weights: tuple[PlacedExperts, PlacedExperts],
        *,
        limit: float,
    ) -> Tensor:
        """Run the chosen experts of one token on `packed` inputs, which are pairs of float16, or float32.

        `chosen` are the experts, their weights, and their slots.
        """
        (inputs, sum_factor), (experts, expert_weights, slots), (gate_up, down) = packed, chosen, weights
        pairs, columns, active = inputs.dtype is torch.float16, x.shape[1], experts.shape[1]
        intermediate = gate_up.bias.shape[1] // 2
        hidden, mixed = inputs.new_empty(active, intermediate), torch.empty_like(x)
        hidden_factor, hidden_sum_factor = _hidden_factors(limit) if pairs else _FLOAT_FACTORS
        common = {
            "PAIRS": pairs, "PTX": x.is_cuda and torch.version.hip is None, "OFFLOADED": gate_up.slots.are_offloaded,
            **self._options(x), "num_warps": 1,
        }  # fmt: skip
        rows, words = max(1, self._tuning.packed_rows // 2), columns // 8
        triton_experts.gate_up_kernel[(triton.cdiv(intermediate, rows), active)](
            _words(inputs), sum_factor, experts, slots, gate_up.host_offsets, *gate_up.slot_tensors, gate_up.bias,
            hidden, limit, SWIGLU_ALPHA, hidden_factor,
            F=intermediate, WORDS=words, ROWS=rows, WIDTH=_round_width(words), **common,
        )  # fmt: skip
        rows, words = self._tuning.packed_rows, intermediate // 8
        programs, parts = triton.cdiv(columns, rows), x.new_empty(active, columns)
        triton_experts.down_kernel[(programs, active)](
            x, _words(hidden), experts, expert_weights, slots, down.host_offsets, *down.slot_tensors, down.bias,
            down.slots.held, parts, self._arrived(programs, x.device), mixed, hidden_sum_factor,
            C=columns, A=active, WORDS=words, ROWS=rows, WIDTH=_round_width(words), **common,
        )  # fmt: skip
        return mixed

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
        """See LayerDecoder.decode_layers. The router prepares the inputs of the experts."""
        eps = config.norm_eps
        for weights, cache in zip(layers, caches, strict=True):
            attention, mlp = weights.attention, weights.mlp
            qkv = self.project_qkv(x, attention, eps=eps)
            attended = self.attend(qkv, rotation, attention.sinks, cache, position=position)
            x = self.project_output(x, attended, attention)
            routed, packed, slots = self._route(
                x, mlp, active=config.active_experts, eps=eps, dtype=dtype, looks_up=True
            )
            experts = placed(mlp.gate_up), placed(mlp.down)
            x = self._mix_packed(x, packed, (*routed[1:], slots), experts, limit=config.swiglu_limit)
        return x

    def unembed(self, x: Tensor, norm: Tensor, unembedding: Rows, *, eps: float) -> Tensor:
        """See Kernels.unembed."""
        tuning, columns, logits = self._tuning, x.shape[1], x.new_empty(1, len(unembedding))
        triton_decode.unembed_kernel[(triton.cdiv(len(unembedding), tuning.rows),)](
            x, norm, unembedding, logits, eps, len(unembedding),
            K=columns, ROWS=tuning.rows, WIDTH=_round_width(columns), **self._options(x),
        )  # fmt: skip
        return logits

    def draw(self, logits: Tensor, excluded: Tensor, uniform: Tensor, *, temperature: float) -> Tensor:
        """See TokenDrawer.draw."""
        blocks = triton.cdiv(len(logits), _BLOCK_LOGITS)
        maxima, sums = logits.new_empty(blocks), logits.new_empty(blocks, dtype=torch.float64)
        first, drawn = logits.new_empty(blocks, dtype=torch.int32), logits.new_empty(1, dtype=torch.int64)
        triton_sampling.reduce_logits_kernel[(blocks,)](
            logits, excluded, maxima, sums, first, temperature, len(logits), WIDTH=_BLOCK_LOGITS,
            **self._options(logits),
        )  # fmt: skip
        triton_sampling.draw_kernel[(1,)](
            logits, excluded, maxima, sums, first, uniform, drawn, temperature, len(logits), blocks,
            WIDTH=_BLOCK_LOGITS, BLOCKS_WIDTH=triton.next_power_of_2(blocks), **self._options(logits),
        )  # fmt: skip
        return drawn

    def _options(self, x: Tensor) -> dict[str, Any]:
        """Return the options that all kernels of a step have in common. The interpreter does not know `launch_pdl`."""
        pdl = bool(self._tuning.pdl) and x.is_cuda
        return {"PDL": pdl, "num_warps": self._tuning.warps, **OPTIONS, **({"launch_pdl": True} if pdl else {})}

    def _arrived(self, programs: int, device: torch.device) -> Tensor:
        """Return counters [programs] int32, all 0 between launches: the last program to arrive resets its counter.

        They are made by the run that compiles the kernels, before a CUDA graph is captured, and kept for it.
        """
        if programs not in self._counters:
            self._counters[programs] = torch.zeros(programs, dtype=torch.int32, device=device)
        return self._counters[programs]


def placed(experts: PackedExperts | PlacedExperts) -> PlacedExperts:
    """Return `experts`, which must be placed."""
    assert isinstance(experts, PlacedExperts), "the loader places the experts of a GPU"
    return experts


def _slot_state(slots: LayerSlots) -> tuple[Tensor, Tensor, Tensor]:
    return slots.held, slots.used_at, slots.counts


def _round_width(columns: int) -> int:
    """Return the number of columns, a power of two and at least 4, in which a row takes at most four rounds."""
    width: int = triton.next_power_of_2(triton.cdiv(columns, _MOST_ROUNDS))
    return max(4, width)


def _new_inputs(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return memory for x [1, C] as inputs of experts in the arithmetic `dtype`, and for the factor of their sums."""
    return x.new_empty(x.shape[1], dtype=torch.float16 if dtype is torch.bfloat16 else torch.float32), x.new_empty(1)


def _words(inputs: Tensor) -> Tensor:
    """Return inputs of experts as the products read them: pairs of float16 as int32."""
    return inputs.view(torch.int32) if inputs.dtype is torch.float16 else inputs


def _hidden_factors(limit: float) -> tuple[float, float]:
    """Return `_FLOAT_FACTORS` for halves. SwiGLU clamps to `limit`, so its values are at most (limit + 1) * limit."""
    factor = 2.0 ** math.floor(15 - math.log2((limit + 1) * limit))
    return factor, triton_experts.HALF_SUM_FACTOR.value / factor
