"""The GPU kernels for several tokens, for Triton 3.6 to 3.9: attention, and grouped products of experts.

cuda.py launches them. Products are of bfloat16 with float32 sums. With UPCAST they are of float32: for float32
arithmetic, for GPUs whose tensor cores have no bfloat16, and for Triton's interpreter, which has none either. Integers
that change from prompt to prompt are not specialized: Triton would compile again for values that are 1 or divisible by
16.
"""

import triton
import triton.language as tl

from gptoss_cli.engine.kernels.triton_experts import SIGN_BIT, VALUE_BITS, scale_factor

# fmt: off

# The bits of an element in the exponent and mantissa of a float32 are its value times 2^-126.
_ELEMENT_FACTOR = tl.constexpr(2.0**126)


@triton.jit
def _product(a, b, UPCAST: tl.constexpr):
    """Return a [M, K] times b [K, N], float32 [M, N]."""
    if UPCAST:
        product = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        product = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    return product


@triton.jit(do_not_specialize=["tokens", "position", "first", "cached"])
def attend_prefill_kernel(
    queries, keys, values, sinks, attended, factor, tokens, position, first, cached,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, D_WIDTH: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, WINDOW: tl.constexpr, UPCAST: tl.constexpr,
):
    """Attend with ROWS rotated queries [tokens, HEADS, D] of head `program 1` -> attended [tokens, HEADS, D].

    The first query is at `position`. Keys and values [cached, KV_HEADS, D] are of the positions from `first` on. WINDOW
    is 0 if a query sees all earlier positions.
    """
    block, head = tl.program_id(0) * ROWS, tl.program_id(1)
    kv_head = head // (HEADS // KV_HEADS)
    t, d = block + tl.arange(0, ROWS), tl.arange(0, D_WIDTH)
    query_mask = (t < tokens)[:, None] & (d < D)[None, :]
    query_offset = (t.to(tl.int64) * HEADS + head)[:, None] * D + d[None, :]
    query = tl.load(queries + query_offset, mask=query_mask, other=0.0) * factor
    end = tl.minimum(cached, position + tl.minimum(tokens, block + ROWS) - first)
    begin = 0
    if WINDOW > 0:
        begin = tl.maximum(0, position + block - WINDOW + 1 - first) // KEYS * KEYS
    max_score = tl.full((ROWS,), -1.0e30, tl.float32)
    sum_exp = tl.zeros((ROWS,), tl.float32)
    weighted_sum = tl.zeros((ROWS, D_WIDTH), tl.float32)
    for start in range(begin, end, KEYS):
        slot = start + tl.arange(0, KEYS)
        kv_mask = (slot < end)[:, None] & (d < D)[None, :]
        kv_offset = (slot.to(tl.int64) * KV_HEADS + kv_head)[:, None] * D + d[None, :]
        distance = (position + t)[:, None] - (first + slot)[None, :]
        visible = (distance >= 0) & (slot < end)[None, :]
        if WINDOW > 0:
            visible = visible & (distance < WINDOW)
        key = tl.load(keys + kv_offset, mask=kv_mask, other=0.0)
        scores = tl.where(visible, _product(query, tl.trans(key), UPCAST), -1.0e30)
        new_max = tl.maximum(max_score, tl.max(scores, axis=1))
        rescale = tl.exp(max_score - new_max)
        probs = tl.where(visible, tl.exp(scores - new_max[:, None]), 0.0)
        sum_exp = sum_exp * rescale + tl.sum(probs, axis=1)
        value = tl.load(values + kv_offset, mask=kv_mask, other=0.0)
        weighted_sum = weighted_sum * rescale[:, None] + _product(probs, value, UPCAST)
        max_score = new_max
    sink = tl.load(sinks + head).to(tl.float32)
    new_max = tl.maximum(max_score, sink)
    rescale = tl.exp(max_score - new_max)
    denominator = sum_exp * rescale + tl.exp(sink - new_max)
    tl.store(attended + query_offset, weighted_sum * (rescale / denominator)[:, None], mask=query_mask)


@triton.jit
def _tile(row_ends, tile_ends, E: tl.constexpr, E_WIDTH: tl.constexpr, TOKENS: tl.constexpr):
    """Return the expert of tile `program 0` (E beyond the last tile), its first row, and the end of its expert's rows.

    The rows of expert e end at row_ends[e], where those of the next one begin. Each expert has its own tiles of TOKENS
    rows, which end at tile_ends[e].
    """
    tile, e = tl.program_id(0), tl.arange(0, E_WIDTH)
    ends = tl.load(tile_ends + e, mask=e < E, other=2**30)
    expert = tl.sum((ends <= tile).to(tl.int32))
    before = (expert > 0) & (expert < E)
    first = tl.load(row_ends + expert - 1, mask=before, other=0)
    first += (tile - tl.load(tile_ends + expert - 1, mask=before, other=0)) * TOKENS
    return expert, first, tl.load(row_ends + expert, mask=expert < E, other=0)


@triton.jit
def _elements(blocks, scales, row, row_mask, byte, K: tl.constexpr):
    """Return elements 2b and 2b + 1 of MXFP4 rows [N] for bytes b [B], two float32 [N, B].

    The low nibble of a byte is the even element: sign, two bits of exponent (bias 1), one of mantissa (OCP MX v1.0,
    E2M1). 16 bytes share a scale: 2^(scale - 127), or NaN.
    """
    byte_mask = row_mask[:, None] & (byte < K // 2)[None, :]
    packed = tl.load(blocks + (row[:, None] * (K // 2) + byte[None, :]), mask=byte_mask, other=0).to(tl.int32)
    scale = tl.load(scales + (row[:, None] * (K // 32) + (byte // 16)[None, :]), mask=byte_mask, other=0).to(tl.int32)
    factor = scale_factor(scale)
    even = ((packed << 28) & SIGN_BIT) | ((packed << 22) & VALUE_BITS)
    odd = ((packed << 24) & SIGN_BIT) | ((packed << 18) & VALUE_BITS)
    return (
        even.to(tl.float32, bitcast=True) * _ELEMENT_FACTOR * factor,
        odd.to(tl.float32, bitcast=True) * _ELEMENT_FACTOR * factor,
    )


@triton.jit(do_not_specialize=["tokens", "slots"])
def grouped_gate_up_kernel(
    inputs, order, row_ends, tile_ends, block_offsets, scale_offsets, blocks, scales, bias, hidden, limit, alpha,
    tokens, slots,
    E: tl.constexpr, E_WIDTH: tl.constexpr, A: tl.constexpr, F: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, BYTES: tl.constexpr, ROUND: tl.constexpr, UPCAST: tl.constexpr,
):
    """Multiply ROWS pairs of gate and up rows of one expert with TOKENS of its tokens, and apply SwiGLU.

    inputs [2, tokens, K / 2] (even elements, then odd ones) -> hidden [2, slots, F / 2], ordered by expert: row m is
    slot order[m], which belongs to token order[m] // A. The offsets of weights are those of triton_decode's kernels.
    """
    expert, first, end = _tile(row_ends, tile_ends, E, E_WIDTH, TOKENS)
    if expert < E:
        own_blocks = blocks + tl.load(block_offsets + expert) * 16
        own_scales = scales + tl.load(scale_offsets + expert)
        m = first + tl.arange(0, TOKENS)
        token = tl.load(order + m, mask=m < end, other=0).to(tl.int32) // A
        pair = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        row_mask = pair < F
        gate = tl.zeros((ROWS, TOKENS), tl.float32)
        up = tl.zeros((ROWS, TOKENS), tl.float32)
        for start in range(0, K // 2, BYTES):
            byte = start + tl.arange(0, BYTES)
            input_mask = (byte < K // 2)[:, None] & (m < end)[None, :]
            input_offset = token[None, :] * (K // 2) + byte[:, None]
            x_even = tl.load(inputs + input_offset, mask=input_mask, other=0.0)
            x_odd = tl.load(inputs + tokens * (K // 2) + input_offset, mask=input_mask, other=0.0)
            even, odd = _elements(own_blocks, own_scales, 2 * pair, row_mask, byte, K)
            gate += _product(even, x_even, UPCAST)
            gate += _product(odd, x_odd, UPCAST)
            even, odd = _elements(own_blocks, own_scales, 2 * pair + 1, row_mask, byte, K)
            up += _product(even, x_even, UPCAST)
            up += _product(odd, x_odd, UPCAST)
        own_bias = bias + expert * (2 * F) + 2 * pair
        gate += tl.load(own_bias, mask=row_mask, other=0.0).to(tl.float32)[:, None]
        up += tl.load(own_bias + 1, mask=row_mask, other=0.0).to(tl.float32)[:, None]
        # Unlike tl.clamp, this keeps NaN.
        gate = tl.where(gate > limit, limit, gate)
        up = tl.where(up > limit, limit, tl.where(up < -limit, -limit, up))
        activated = (up + 1.0) * gate / (1.0 + tl.exp(-alpha * gate))
        if ROUND:
            activated = activated.to(tl.bfloat16)
        hidden_offset = ((pair % 2) * (F // 2))[:, None] * slots + m[None, :] * (F // 2) + (pair // 2)[:, None]
        hidden_mask = row_mask[:, None] & (m < end)[None, :]
        tl.store(hidden + hidden_offset, activated.to(hidden.dtype.element_ty), mask=hidden_mask)


@triton.jit(do_not_specialize=["slots"])
def grouped_down_kernel(
    hidden, order, expert_weights, row_ends, tile_ends, block_offsets, scale_offsets, blocks, scales, bias, outputs,
    slots,
    E: tl.constexpr, E_WIDTH: tl.constexpr, C: tl.constexpr, F: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, BYTES: tl.constexpr, UPCAST: tl.constexpr,
):
    """Multiply ROWS down rows of one expert with TOKENS of its tokens, times expert_weights -> outputs [slots, C]."""
    expert, first, end = _tile(row_ends, tile_ends, E, E_WIDTH, TOKENS)
    if expert < E:
        own_blocks = blocks + tl.load(block_offsets + expert) * 16
        own_scales = scales + tl.load(scale_offsets + expert)
        m = first + tl.arange(0, TOKENS)
        slot = tl.load(order + m, mask=m < end, other=0)
        row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        row_mask = row < C
        total = tl.zeros((ROWS, TOKENS), tl.float32)
        for start in range(0, F // 2, BYTES):
            byte = start + tl.arange(0, BYTES)
            hidden_mask = (byte < F // 2)[:, None] & (m < end)[None, :]
            hidden_offset = m[None, :] * (F // 2) + byte[:, None]
            even, odd = _elements(own_blocks, own_scales, row, row_mask, byte, F)
            x = tl.load(hidden + hidden_offset, mask=hidden_mask, other=0.0)
            total += _product(even, x, UPCAST)
            x = tl.load(hidden + slots * (F // 2) + hidden_offset, mask=hidden_mask, other=0.0)
            total += _product(odd, x, UPCAST)
        total += tl.load(bias + expert * C + row, mask=row_mask, other=0.0).to(tl.float32)[:, None]
        total *= tl.load(expert_weights + slot, mask=m < end, other=0.0)[None, :]
        tl.store(outputs + slot[None, :] * C + row[:, None], total, mask=row_mask[:, None] & (m < end)[None, :])
