"""What runs on a GPU for several tokens at once, in Triton 3.6 to 3.9: attention, and the experts' grouped products.

cuda.py calls these. Products are of bfloat16 with float32 sums, or of float32 with UPCAST: for float32 arithmetic, for
GPUs whose tensor cores have no bfloat16, and for Triton's interpreter, which has none either. Integers that change from
prompt to prompt are not specialized: Triton would compile again for values that are 1 or divisible by 16.
"""

import triton
import triton.language as tl

from gptoss_cli.engine.kernels.triton_decode import SIGN_BIT, VALUE_BITS, scale_factor

# fmt: off

# An element's bits, put into the exponent and mantissa of a float32, are its value times 2^-126.
_ELEMENT_FACTOR = tl.constexpr(2.0**126)


@triton.jit
def _product(a, b, UPCAST: tl.constexpr):
    """a [M, K] times b [K, N] -> float32 [M, N]."""
    if UPCAST:
        made = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        made = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    return made


@triton.jit(do_not_specialize=["tokens", "position", "first", "seen"])
def attend_several_kernel(
    queries, keys, values, sinks, attended, factor, tokens, position, first, seen,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, D_WIDTH: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, WINDOW: tl.constexpr, UPCAST: tl.constexpr,
):
    """ROWS tokens of query head `program 1`: rotated queries [tokens, HEADS, D] -> attended [tokens, HEADS, D].

    The first query is at `position`; keys and values [seen, KV_HEADS, D] are of the positions from `first` on. WINDOW
    is 0 where a query sees all that came before it.
    """
    block, head = tl.program_id(0) * ROWS, tl.program_id(1)
    kv_head = head // (HEADS // KV_HEADS)
    t, d = block + tl.arange(0, ROWS), tl.arange(0, D_WIDTH)
    inside = (t < tokens)[:, None] & (d < D)[None, :]
    at = (t.to(tl.int64) * HEADS + head)[:, None] * D + d[None, :]
    query = tl.load(queries + at, mask=inside, other=0.0) * factor
    end = tl.minimum(seen, position + tl.minimum(tokens, block + ROWS) - first)
    begin = 0
    if WINDOW > 0:
        begin = tl.maximum(0, position + block - WINDOW + 1 - first) // KEYS * KEYS
    largest = tl.full((ROWS,), -1.0e30, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    result = tl.zeros((ROWS, D_WIDTH), tl.float32)
    for start in range(begin, end, KEYS):
        slot = start + tl.arange(0, KEYS)
        wanted = (slot < end)[:, None] & (d < D)[None, :]
        place = (slot.to(tl.int64) * KV_HEADS + kv_head)[:, None] * D + d[None, :]
        distance = (position + t)[:, None] - (first + slot)[None, :]
        visible = (distance >= 0) & (slot < end)[None, :]
        if WINDOW > 0:
            visible = visible & (distance < WINDOW)
        key = tl.load(keys + place, mask=wanted, other=0.0)
        scores = tl.where(visible, _product(query, tl.trans(key), UPCAST), -1.0e30)
        higher = tl.maximum(largest, tl.max(scores, axis=1))
        shrunk = tl.exp(largest - higher)
        shares = tl.where(visible, tl.exp(scores - higher[:, None]), 0.0)
        total = total * shrunk + tl.sum(shares, axis=1)
        value = tl.load(values + place, mask=wanted, other=0.0)
        result = result * shrunk[:, None] + _product(shares, value, UPCAST)
        largest = higher
    sink = tl.load(sinks + head).to(tl.float32)
    higher = tl.maximum(largest, sink)
    shrunk = tl.exp(largest - higher)
    whole = total * shrunk + tl.exp(sink - higher)
    tl.store(attended + at, result * (shrunk / whole)[:, None], mask=inside)


@triton.jit
def _tile(row_ends, tile_ends, E: tl.constexpr, E_WIDTH: tl.constexpr, TOKENS: tl.constexpr):
    """Of tile `program 0`: its expert, E beyond the last tile; its first row and the end of its expert's rows.

    The rows of all experts lie one after another, expert e's up to row_ends[e]; each has its own tiles of TOKENS rows,
    up to tile_ends[e].
    """
    tile, e = tl.program_id(0), tl.arange(0, E_WIDTH)
    ends = tl.load(tile_ends + e, mask=e < E, other=2**30)
    expert = tl.sum((ends <= tile).to(tl.int32))
    before = (expert > 0) & (expert < E)
    first = tl.load(row_ends + expert - 1, mask=before, other=0)
    first += (tile - tl.load(tile_ends + expert - 1, mask=before, other=0)) * TOKENS
    return expert, first, tl.load(row_ends + expert, mask=expert < E, other=0)


@triton.jit
def _elements(blocks, scales, row, there, byte, K: tl.constexpr):
    """Elements 2b and 2b + 1 of MXFP4 rows [N] for bytes b [B] -> two float32 [N, B].

    The low nibble of a byte is the even element: sign, two bits of exponent (bias 1), one of mantissa (OCP MX v1.0,
    E2M1). 16 bytes share a scale: 2^(scale - 127), or NaN.
    """
    wanted = there[:, None] & (byte < K // 2)[None, :]
    packed = tl.load(blocks + (row[:, None] * (K // 2) + byte[None, :]), mask=wanted, other=0).to(tl.int32)
    exponent = tl.load(scales + (row[:, None] * (K // 32) + (byte // 16)[None, :]), mask=wanted, other=0).to(tl.int32)
    factor = scale_factor(exponent)
    even = ((packed << 28) & SIGN_BIT) | ((packed << 22) & VALUE_BITS)
    odd = ((packed << 24) & SIGN_BIT) | ((packed << 18) & VALUE_BITS)
    return (
        even.to(tl.float32, bitcast=True) * _ELEMENT_FACTOR * factor,
        odd.to(tl.float32, bitcast=True) * _ELEMENT_FACTOR * factor,
    )


@triton.jit(do_not_specialize=["tokens", "slots"])
def grouped_gate_up_kernel(
    inputs, order, row_ends, tile_ends, block_places, scale_places, blocks, scales, bias, hidden, limit, alpha,
    tokens, slots,
    E: tl.constexpr, E_WIDTH: tl.constexpr, A: tl.constexpr, F: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, BYTES: tl.constexpr, ROUND: tl.constexpr, UPCAST: tl.constexpr,
):
    """ROWS pairs of gate and up rows of one expert for TOKENS of its tokens, and swiglu of them.

    inputs [2, tokens, K / 2] (even elements, then odd ones) -> hidden [2, slots, F / 2], in the order of the experts:
    row m is for slot order[m], which is token order[m] // A. Where the weights begin is told as in programs.py.
    """
    expert, first, end = _tile(row_ends, tile_ends, E, E_WIDTH, TOKENS)
    if expert < E:
        own_blocks = blocks + tl.load(block_places + expert) * 16
        own_scales = scales + tl.load(scale_places + expert)
        m = first + tl.arange(0, TOKENS)
        token = tl.load(order + m, mask=m < end, other=0).to(tl.int32) // A
        pair = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        there = pair < F
        gate = tl.zeros((ROWS, TOKENS), tl.float32)
        up = tl.zeros((ROWS, TOKENS), tl.float32)
        for start in range(0, K // 2, BYTES):
            byte = start + tl.arange(0, BYTES)
            wanted = (byte < K // 2)[:, None] & (m < end)[None, :]
            place = token[None, :] * (K // 2) + byte[:, None]
            x_even = tl.load(inputs + place, mask=wanted, other=0.0)
            x_odd = tl.load(inputs + tokens * (K // 2) + place, mask=wanted, other=0.0)
            even, odd = _elements(own_blocks, own_scales, 2 * pair, there, byte, K)
            gate += _product(even, x_even, UPCAST)
            gate += _product(odd, x_odd, UPCAST)
            even, odd = _elements(own_blocks, own_scales, 2 * pair + 1, there, byte, K)
            up += _product(even, x_even, UPCAST)
            up += _product(odd, x_odd, UPCAST)
        own_bias = bias + expert * (2 * F) + 2 * pair
        gate += tl.load(own_bias, mask=there, other=0.0).to(tl.float32)[:, None]
        up += tl.load(own_bias + 1, mask=there, other=0.0).to(tl.float32)[:, None]
        # Written so that NaN stays NaN.
        gate = tl.where(gate > limit, limit, gate)
        up = tl.where(up > limit, limit, tl.where(up < -limit, -limit, up))
        made = (up + 1.0) * gate / (1.0 + tl.exp(-alpha * gate))
        if ROUND:
            made = made.to(tl.bfloat16)
        to = ((pair % 2) * (F // 2))[:, None] * slots + m[None, :] * (F // 2) + (pair // 2)[:, None]
        tl.store(hidden + to, made.to(hidden.dtype.element_ty), mask=there[:, None] & (m < end)[None, :])


@triton.jit(do_not_specialize=["slots"])
def grouped_down_kernel(
    hidden, order, shares, row_ends, tile_ends, block_places, scale_places, blocks, scales, bias, made, slots,
    E: tl.constexpr, E_WIDTH: tl.constexpr, C: tl.constexpr, F: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, BYTES: tl.constexpr, UPCAST: tl.constexpr,
):
    """ROWS down rows of one expert for TOKENS of its tokens, times their shares [slots] -> made [slots, C] float32."""
    expert, first, end = _tile(row_ends, tile_ends, E, E_WIDTH, TOKENS)
    if expert < E:
        own_blocks = blocks + tl.load(block_places + expert) * 16
        own_scales = scales + tl.load(scale_places + expert)
        m = first + tl.arange(0, TOKENS)
        slot = tl.load(order + m, mask=m < end, other=0)
        row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        there = row < C
        total = tl.zeros((ROWS, TOKENS), tl.float32)
        for start in range(0, F // 2, BYTES):
            byte = start + tl.arange(0, BYTES)
            wanted = (byte < F // 2)[:, None] & (m < end)[None, :]
            place = m[None, :] * (F // 2) + byte[:, None]
            even, odd = _elements(own_blocks, own_scales, row, there, byte, F)
            total += _product(even, tl.load(hidden + place, mask=wanted, other=0.0), UPCAST)
            total += _product(odd, tl.load(hidden + slots * (F // 2) + place, mask=wanted, other=0.0), UPCAST)
        total += tl.load(bias + expert * C + row, mask=there, other=0.0).to(tl.float32)[:, None]
        total *= tl.load(shares + slot, mask=m < end, other=0.0)[None, :]
        tl.store(made + slot[None, :] * C + row[:, None], total, mask=there[:, None] & (m < end)[None, :])
