"""The GPU kernels for several tokens, for Triton 3.6 to 3.9: attention, and grouped products of experts.

cuda.py launches them. The grouped products load the packed weights of the next round before they multiply those of this
one. That hides the time of the load, and keeps Triton from choosing a layout for single bytes, which would have the
tensor cores' inputs moved between registers.

Products are of bfloat16 with float32 sums. With UPCAST they are of float32: for float32 arithmetic, for GPUs whose
tensor cores have no bfloat16, and for Triton's interpreter, which has none either. Integers that change from prompt to
prompt are not specialized: Triton would compile again for values that are 1 or divisible by 16.
"""

import triton
import triton.language as tl

from gptoss_cli.engine.kernels.compilation import kernel
from gptoss_cli.engine.kernels.triton_experts import SIGN_BIT, VALUE_BITS, scale_factor

# fmt: off

# The bits of an element in the exponent and mantissa of a float32 are its value times 2^-126.
_ELEMENT_FACTOR = tl.constexpr(2.0**126)
_LOG2_E = tl.constexpr(1.4426950408889634)


def _unpack_two(selector: str, *, low: int, high: int, factor: int) -> str:
    """Return the instructions that unpack the two bytes that `selector` puts into half words, into two operands."""
    return f"""\
prmt.b32 bytes, $4, 0, {selector};
shl.b32 value, bytes, 6;
and.b32 value, value, 0x01C001C0;
shl.b32 sign, bytes, 12;
and.b32 sign, sign, 0x80008000;
or.b32 value, value, sign;
fma.rn.bf16x2 value, value, whole, nothing;
fma.rn.bf16x2 ${low}, value, ${factor}, nothing;
shl.b32 value, bytes, 2;
and.b32 value, value, 0x01C001C0;
shl.b32 sign, bytes, 8;
and.b32 sign, sign, 0x80008000;
or.b32 value, value, sign;
fma.rn.bf16x2 value, value, whole, nothing;
fma.rn.bf16x2 ${high}, value, ${factor}, nothing;
"""


# $4 has four bytes, $5 and $6 their four factors; $0 and $1 become the low elements, $2 and $3 the high ones. Each byte
# goes to a half word, where the bits of an element are its value times 2^-126. Products with powers of two are exact.
_UNPACK = tl.constexpr(
    """
{
.reg .b32 bytes, value, sign, whole, nothing;
mov.b32 whole, 0x7E807E80;
mov.b32 nothing, 0x80008000;
"""
    + _unpack_two("0x4140", low=0, high=2, factor=5)
    + _unpack_two("0x4342", low=1, high=3, factor=6)
    + "}\n"
)


@triton.jit
def _product(a, b, UPCAST: tl.constexpr):
    """Return a [M, K] times b [K, N], float32 [M, N]."""
    if UPCAST:
        product = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        product = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    return product


@triton.jit
def _rotated_queries(queries, cos, sin, t, head, d, mask, HEADS: tl.constexpr, D: tl.constexpr):
    """Load head `head` of tokens t [R] and rotate it: elements d [N] of the first half turn with d + D/2 -> [R, N]."""
    half: tl.constexpr = D // 2
    row, turn = t.to(tl.int64)[:, None] * HEADS * D + head * D, t[:, None] * half + (d % half)[None, :]
    own = tl.load(queries + row + d[None, :], mask=mask, other=0.0)
    partner = tl.load(queries + row + ((d + half) % D)[None, :], mask=mask, other=0.0)
    c, s = tl.load(cos + turn, mask=mask, other=0.0), tl.load(sin + turn, mask=mask, other=0.0)
    return own * c + partner * tl.where((d < half)[None, :], -s, s)


@triton.jit
def _attend_block(
    query, keys, values, start, end, own, max_score, sum_exp, weighted_sum,
    KV_HEADS: tl.constexpr, D: tl.constexpr, D_WIDTH: tl.constexpr, KEYS: tl.constexpr, WINDOW: tl.constexpr,
    MASKED: tl.constexpr, UPCAST: tl.constexpr,
):
    """Attend to slots `start` to start + KEYS -> the new maxima and sums. Scores are logarithms to the base 2.

    `own` [R] is the slot of each query's own key. Without MASKED every query sees all of these slots.
    """
    slot, d = start + tl.arange(0, KEYS), tl.arange(0, D_WIDTH)
    offset = slot.to(tl.int64)[:, None] * (KV_HEADS * D) + d[None, :]
    if MASKED:
        loaded = (slot < end)[:, None] & (d < D)[None, :]
        key = tl.load(keys + offset, mask=loaded, other=0.0)
        value = tl.load(values + offset, mask=loaded, other=0.0)
    elif D < D_WIDTH:
        key = tl.load(keys + offset, mask=(d < D)[None, :], other=0.0)
        value = tl.load(values + offset, mask=(d < D)[None, :], other=0.0)
    else:
        key = tl.load(keys + offset)
        value = tl.load(values + offset)
    scores = _product(query, tl.trans(key), UPCAST)
    if MASKED:
        visible = (slot[None, :] <= own[:, None]) & (slot < end)[None, :]
        if WINDOW > 0:
            visible = visible & (slot[None, :] > own[:, None] - WINDOW)
        scores = tl.where(visible, scores, -float("inf"))
    new_max = tl.maximum(max_score, tl.max(scores, axis=1))  # never infinite, for max_score is not
    rescale, probs = tl.exp2(max_score - new_max), tl.exp2(scores - new_max[:, None])
    sum_exp = sum_exp * rescale + tl.sum(probs, axis=1)
    weighted_sum = weighted_sum * rescale[:, None] + _product(probs, value, UPCAST)
    return new_max, sum_exp, weighted_sum


@kernel(do_not_specialize=["tokens", "position", "first", "cached"])
def attend_prefill_kernel(
    queries, cos, sin, keys, values, sinks, attended, factor, tokens, position, first, cached,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, D_WIDTH: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, WINDOW: tl.constexpr, UPCAST: tl.constexpr,
):
    """Rotate ROWS queries [tokens, HEADS, D] of head `program 1` and attend -> attended [tokens, HEADS, D].

    The first query is at `position`. Keys and values [cached, KV_HEADS, D] are of the positions from `first` on. WINDOW
    is 0 if a query sees all earlier positions. `factor` is that of the scores times log2(e).
    """
    block, head = tl.program_id(0) * ROWS, tl.program_id(1)
    kv_head = head // (HEADS // KV_HEADS)
    t, d = block + tl.arange(0, ROWS), tl.arange(0, D_WIDTH)
    query_mask = (t < tokens)[:, None] & (d < D)[None, :]
    query = _rotated_queries(queries, cos, sin, t, head, d, query_mask, HEADS, D) * factor
    if not UPCAST:
        query = query.to(tl.bfloat16)
    keys += kv_head * D
    values += kv_head * D
    first_own = position + block - first  # the slot of the first query's own key
    own = first_own + tl.arange(0, ROWS)
    end = tl.minimum(cached, position + tl.minimum(tokens, block + ROWS) - first)
    max_score = tl.full((ROWS,), -1.0e30, tl.float32)
    sum_exp = tl.zeros((ROWS,), tl.float32)
    weighted_sum = tl.zeros((ROWS, D_WIDTH), tl.float32)
    if WINDOW > 0:
        begin = tl.maximum(0, first_own - WINDOW + 1)
    else:
        begin = (first_own + 1) // KEYS * KEYS  # all queries see the slots before it
        for start in range(0, begin, KEYS):
            max_score, sum_exp, weighted_sum = _attend_block(
                query, keys, values, start, end, own, max_score, sum_exp, weighted_sum,
                KV_HEADS, D, D_WIDTH, KEYS, WINDOW, False, UPCAST,
            )
    for start in range(begin, end, KEYS):
        max_score, sum_exp, weighted_sum = _attend_block(
            query, keys, values, start, end, own, max_score, sum_exp, weighted_sum,
            KV_HEADS, D, D_WIDTH, KEYS, WINDOW, True, UPCAST,
        )
    sink = tl.load(sinks + head).to(tl.float32) * _LOG2_E
    new_max = tl.maximum(max_score, sink)
    rescale = tl.exp2(max_score - new_max)
    denominator = sum_exp * rescale + tl.exp2(sink - new_max)
    attended += t.to(tl.int64)[:, None] * HEADS * D + head * D + d[None, :]
    tl.store(attended, weighted_sum * (rescale / denominator)[:, None], mask=query_mask)


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
def _packed(blocks, scales, row, row_mask, byte, K: tl.constexpr):
    """Load bytes [B] of MXFP4 rows [N] -> the bytes and their scales, two u8 [N, B]. 16 bytes share a scale."""
    byte_mask = row_mask[:, None] & (byte < K // 2)[None, :]
    packed = tl.load(blocks + (row[:, None] * (K // 2) + byte[None, :]), mask=byte_mask, other=0)
    scale = tl.load(scales + (row[:, None] * (K // 32) + (byte // 16)[None, :]), mask=byte_mask, other=0)
    return packed, scale


@triton.jit
def _elements(packed, scale, PTX: tl.constexpr):
    """Return the low and the high element of each byte, two [N, B]: bfloat16 with PTX, else float32, equally exact.

    An element is a sign, two bits of exponent (bias 1) and one of mantissa (OCP MX v1.0, E2M1), times 2^(scale - 127),
    which is NaN for 255.
    """
    if PTX:
        bits = tl.where(scale == 0, 0x40, tl.where(scale == 255, 0x7FC0, scale.to(tl.int16) << 7)).to(tl.int16)
        even, odd = tl.inline_asm_elementwise(
            _UNPACK, "=r,=r,=r,=r,r,r,r", [packed, bits], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4
        )
    else:
        factor, word = scale_factor(scale.to(tl.int32)), packed.to(tl.int32)
        even = ((word << 28) & SIGN_BIT) | ((word << 22) & VALUE_BITS)
        odd = ((word << 24) & SIGN_BIT) | ((word << 18) & VALUE_BITS)
        even = even.to(tl.float32, bitcast=True) * _ELEMENT_FACTOR * factor
        odd = odd.to(tl.float32, bitcast=True) * _ELEMENT_FACTOR * factor
    return even, odd


@kernel(do_not_specialize=["tokens", "slots"])
def grouped_gate_up_kernel(
    inputs, order, row_ends, tile_ends, block_offsets, scale_offsets, blocks, scales, bias, hidden, limit, alpha,
    tokens, slots,
    E: tl.constexpr, E_WIDTH: tl.constexpr, A: tl.constexpr, F: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, BYTES: tl.constexpr, ROUND: tl.constexpr, UPCAST: tl.constexpr,
    PTX: tl.constexpr,
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
        bytes_ahead = tl.arange(0, BYTES)
        next_gate, gate_scale = _packed(own_blocks, own_scales, 2 * pair, row_mask, bytes_ahead, K)
        next_up, up_scale = _packed(own_blocks, own_scales, 2 * pair + 1, row_mask, bytes_ahead, K)
        for start in range(0, K // 2, BYTES):
            packed_gate, factor_gate, packed_up, factor_up = next_gate, gate_scale, next_up, up_scale
            byte = start + tl.arange(0, BYTES)
            next_gate, gate_scale = _packed(own_blocks, own_scales, 2 * pair, row_mask, byte + BYTES, K)
            next_up, up_scale = _packed(own_blocks, own_scales, 2 * pair + 1, row_mask, byte + BYTES, K)
            input_mask = (byte < K // 2)[:, None] & (m < end)[None, :]
            input_offset = token[None, :] * (K // 2) + byte[:, None]
            x_even = tl.load(inputs + input_offset, mask=input_mask, other=0.0)
            x_odd = tl.load(inputs + tokens * (K // 2) + input_offset, mask=input_mask, other=0.0)
            even, odd = _elements(packed_gate, factor_gate, PTX)
            gate += _product(even, x_even, UPCAST)
            gate += _product(odd, x_odd, UPCAST)
            even, odd = _elements(packed_up, factor_up, PTX)
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


@kernel(do_not_specialize=["slots"])
def grouped_down_kernel(
    hidden, order, expert_weights, row_ends, tile_ends, block_offsets, scale_offsets, blocks, scales, bias, outputs,
    slots,
    E: tl.constexpr, E_WIDTH: tl.constexpr, C: tl.constexpr, F: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, BYTES: tl.constexpr, UPCAST: tl.constexpr,
    PTX: tl.constexpr,
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
        ahead, scale_ahead = _packed(own_blocks, own_scales, row, row_mask, tl.arange(0, BYTES), F)
        for start in range(0, F // 2, BYTES):
            packed, scale = ahead, scale_ahead
            byte = start + tl.arange(0, BYTES)
            ahead, scale_ahead = _packed(own_blocks, own_scales, row, row_mask, byte + BYTES, F)
            hidden_mask = (byte < F // 2)[:, None] & (m < end)[None, :]
            hidden_offset = m[None, :] * (F // 2) + byte[:, None]
            even, odd = _elements(packed, scale, PTX)
            x = tl.load(hidden + hidden_offset, mask=hidden_mask, other=0.0)
            total += _product(even, x, UPCAST)
            x = tl.load(hidden + slots * (F // 2) + hidden_offset, mask=hidden_mask, other=0.0)
            total += _product(odd, x, UPCAST)
        total += tl.load(bias + expert * C + row, mask=row_mask, other=0.0).to(tl.float32)[:, None]
        total *= tl.load(expert_weights + slot, mask=m < end, other=0.0)[None, :]
        tl.store(outputs + slot[None, :] * C + row[:, None], total, mask=row_mask[:, None] & (m < end)[None, :])
