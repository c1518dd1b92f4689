"""What runs on a GPU for one token, in Triton 3.6 to 3.9. cuda.py calls these; they know no shapes but their arguments.

Weights are read as they lie in the checkpoint. Sums are float32. A position is read from device memory, so that a
recorded step can be replayed for another one.
"""

import triton
import triton.language as tl

# fmt: off

# An element's bits, put into the exponent and mantissa of a float32, are its value times 2^-126: a product with them
# would be subnormal. So inputs come times 2^64, and sums are multiplied by what is left.
INPUT_FACTOR = tl.constexpr(2.0**64)
_SUM_FACTOR = tl.constexpr(2.0**62)
SIGN_BIT = tl.constexpr(-(2**31))
VALUE_BITS = tl.constexpr(0x01C00000)
_NAN_BITS = tl.constexpr(0x7FC00000)
_NO_SCALE = tl.constexpr(255)


@triton.jit
def _normalizer(x, eps, K: tl.constexpr, WIDTH: tl.constexpr):
    """1 / the root of the mean square of x [K]."""
    squares = tl.zeros((WIDTH,), tl.float32)
    for start in range(0, K, WIDTH):
        k = start + tl.arange(0, WIDTH)
        value = tl.load(x + k, mask=k < K, other=0.0)
        squares += value * value
    return 1.0 / tl.sqrt_rn(tl.sum(squares) / K + eps)


@triton.jit
def _normed(x, norm, normalizer, k, there, ROUND: tl.constexpr):
    """Elements `k` of x times the normalizer and norm; rounded to bfloat16 if the arithmetic is."""
    value = tl.load(x + k, mask=there, other=0.0) * normalizer
    value *= tl.load(norm + k, mask=there, other=0.0).to(tl.float32)
    if ROUND:
        value = value.to(tl.bfloat16).to(tl.float32)
    return value


@triton.jit
def _normed_rows(
    x, norm, normalizer, weight, bias, y, first, count,
    K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, ROUND: tl.constexpr, BIASED: tl.constexpr,
):
    """Rows first, first + 1, ... of weight [count, K] bf16 times the normed x, plus bias -> y [count]."""
    row = first + tl.arange(0, ROWS)
    there = row < count
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, K, WIDTH):
        k = start + tl.arange(0, WIDTH)
        value = _normed(x, norm, normalizer, k, k < K, ROUND)
        at = row.to(tl.int64)[:, None] * K + k[None, :]
        weights = tl.load(weight + at, mask=there[:, None] & (k < K)[None, :], other=0.0).to(tl.float32)
        total += weights * value[None, :]
    result = tl.sum(total, axis=1)
    if BIASED:
        result += tl.load(bias + row, mask=there, other=0.0).to(tl.float32)
    tl.store(y + row, result, mask=there)


@triton.jit
def qkv_kernel(
    x, norm, query, query_bias, key, key_bias, value, value_bias, queries, keys, values, eps,
    QUERY: tl.constexpr, KEY: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    ROUND: tl.constexpr,
):
    """RMSNorm of x [K] and three products -> queries [QUERY], keys and values [KEY] float32."""
    normalizer = _normalizer(x, eps, K, WIDTH)
    program = tl.program_id(0)
    query_programs: tl.constexpr = (QUERY + ROWS - 1) // ROWS
    key_programs: tl.constexpr = (KEY + ROWS - 1) // ROWS
    if program < query_programs:
        _normed_rows(
            x, norm, normalizer, query, query_bias, queries, program * ROWS, QUERY, K, ROWS, WIDTH, ROUND, True
        )
    elif program < query_programs + key_programs:
        first = (program - query_programs) * ROWS
        _normed_rows(x, norm, normalizer, key, key_bias, keys, first, KEY, K, ROWS, WIDTH, ROUND, True)
    else:
        first = (program - query_programs - key_programs) * ROWS
        _normed_rows(x, norm, normalizer, value, value_bias, values, first, KEY, K, ROWS, WIDTH, ROUND, True)


@triton.jit
def unembed_kernel(
    x, norm, weight, logits, eps, rows,
    K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, ROUND: tl.constexpr,
):
    """RMSNorm of x [K] and the product with weight [rows, K] -> logits [rows] float32."""
    normalizer = _normalizer(x, eps, K, WIDTH)
    first = tl.program_id(0) * ROWS
    _normed_rows(x, norm, normalizer, weight, norm, logits, first, rows, K, ROWS, WIDTH, ROUND, False)


@triton.jit
def output_kernel(
    x, attended, weight, bias, y,
    C: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, ROUND: tl.constexpr,
):
    """x [C] plus weight [C, K] times attended [K] plus bias -> y [C]."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < C
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, K, WIDTH):
        k = start + tl.arange(0, WIDTH)
        value = tl.load(attended + k, mask=k < K, other=0.0)
        if ROUND:
            value = value.to(tl.bfloat16).to(tl.float32)
        at = row[:, None] * K + k[None, :]
        weights = tl.load(weight + at, mask=there[:, None] & (k < K)[None, :], other=0.0).to(tl.float32)
        total += weights * value[None, :]
    result = tl.sum(total, axis=1) + tl.load(bias + row, mask=there, other=0.0).to(tl.float32)
    tl.store(y + row, tl.load(x + row, mask=there, other=0.0) + result, mask=there)


@triton.jit
def rotate_kernel(
    queries, keys, values, cos, sin, position, rotated, cached_keys, cached_values,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, HALF_WIDTH: tl.constexpr, WINDOW: tl.constexpr,
):
    """Rotates query head `program` of HEADS, or one of the keys, which goes to the cache with its values.

    WINDOW is 0 where the cache holds every position.
    """
    head = tl.program_id(0)
    i = tl.arange(0, HALF_WIDTH)
    there = i < HALF
    c = tl.load(cos + i, mask=there, other=0.0)
    s = tl.load(sin + i, mask=there, other=0.0)
    if head < HEADS:
        at = head * 2 * HALF + i
        first = tl.load(queries + at, mask=there, other=0.0)
        second = tl.load(queries + at + HALF, mask=there, other=0.0)
        tl.store(rotated + at, first * c - second * s, mask=there)
        tl.store(rotated + at + HALF, second * c + first * s, mask=there)
    else:
        slot = tl.load(position).to(tl.int64)
        if WINDOW > 0:
            slot = slot % WINDOW
        at = (head - HEADS) * 2 * HALF + i
        to = slot * (KV_HEADS * 2 * HALF) + at
        first = tl.load(keys + at, mask=there, other=0.0)
        second = tl.load(keys + at + HALF, mask=there, other=0.0)
        kind = cached_keys.dtype.element_ty
        tl.store(cached_keys + to, (first * c - second * s).to(kind), mask=there)
        tl.store(cached_keys + to + HALF, (second * c + first * s).to(kind), mask=there)
        tl.store(cached_values + to, tl.load(values + at, mask=there, other=0.0).to(kind), mask=there)
        tl.store(cached_values + to + HALF, tl.load(values + at + HALF, mask=there, other=0.0).to(kind), mask=there)


@triton.jit
def attend_kernel(
    rotated, cached_keys, cached_values, sinks, position, partial, attended, factor,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, GROUP_WIDTH: tl.constexpr, D_WIDTH: tl.constexpr,
    KEYS: tl.constexpr, SPLITS: tl.constexpr, WINDOW: tl.constexpr,
):
    """The GROUP query heads of kv head `program 0` over part `program 1` of the positions.

    With one part the result is attended [KV_HEADS * GROUP * D]; else partial [KV_HEADS, SPLITS, GROUP, 2 + D] gets the
    largest score, the sum of exponentials and the unscaled result, for combine_kernel.
    """
    head, split = tl.program_id(0), tl.program_id(1)
    length = tl.load(position) + 1
    if WINDOW > 0:
        length = tl.minimum(length, WINDOW)
    part = tl.cdiv(tl.cdiv(length, SPLITS), KEYS) * KEYS
    begin = split * part
    end = tl.minimum(length, begin + part)
    g, d = tl.arange(0, GROUP_WIDTH), tl.arange(0, D_WIDTH)
    in_group, in_head = g < GROUP, d < D
    at = (head * GROUP + g)[:, None] * D + d[None, :]
    inside = in_group[:, None] & in_head[None, :]
    query = tl.load(rotated + at, mask=inside, other=0.0) * factor
    largest = tl.full((GROUP_WIDTH,), -1.0e30, tl.float32)
    total = tl.zeros((GROUP_WIDTH,), tl.float32)
    result = tl.zeros((GROUP_WIDTH, D_WIDTH), tl.float32)
    for start in range(begin, end, KEYS):
        slot = start + tl.arange(0, KEYS)
        seen = slot < end
        place = (slot.to(tl.int64) * KV_HEADS + head)[:, None] * D + d[None, :]
        wanted = seen[:, None] & in_head[None, :]
        key = tl.load(cached_keys + place, mask=wanted, other=0.0).to(tl.float32)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee")
        scores = tl.where(seen[None, :], scores, -1.0e30)
        higher = tl.maximum(largest, tl.max(scores, axis=1))
        shrunk = tl.exp(largest - higher)
        shares = tl.where(seen[None, :], tl.exp(scores - higher[:, None]), 0.0)
        total = total * shrunk + tl.sum(shares, axis=1)
        value = tl.load(cached_values + place, mask=wanted, other=0.0).to(tl.float32)
        result = result * shrunk[:, None] + tl.dot(shares, value, input_precision="ieee")
        largest = higher
    if SPLITS == 1:
        sink = tl.load(sinks + head * GROUP + g, mask=in_group, other=0.0).to(tl.float32)
        higher = tl.maximum(largest, sink)
        shrunk = tl.exp(largest - higher)
        whole = total * shrunk + tl.exp(sink - higher)
        tl.store(attended + at, result * (shrunk / whole)[:, None], mask=inside)
    else:
        row = ((head * SPLITS + split) * GROUP + g) * (2 + D)
        tl.store(partial + row, largest, mask=in_group)
        tl.store(partial + row + 1, total, mask=in_group)
        tl.store(partial + row[:, None] + 2 + d[None, :], result, mask=inside)


@triton.jit
def combine_kernel(
    partial, sinks, attended,
    GROUP: tl.constexpr, D: tl.constexpr, D_WIDTH: tl.constexpr, SPLITS: tl.constexpr,
):
    """The parts of query head `program` put together, the sink among them -> attended."""
    query_head = tl.program_id(0)
    head, g = query_head // GROUP, query_head % GROUP
    split, d = tl.arange(0, SPLITS), tl.arange(0, D_WIDTH)
    row = ((head * SPLITS + split) * GROUP + g) * (2 + D)
    largest = tl.load(partial + row)
    sink = tl.load(sinks + query_head).to(tl.float32)
    higher = tl.maximum(tl.max(largest), sink)
    shrunk = tl.exp(largest - higher)
    whole = tl.sum(tl.load(partial + row + 1) * shrunk) + tl.exp(sink - higher)
    inside = (d < D)[None, :] & (split >= 0)[:, None]
    results = tl.load(partial + row[:, None] + 2 + d[None, :], mask=inside, other=0.0)
    tl.store(attended + query_head * D + d, tl.sum(results * shrunk[:, None], axis=0) / whole, mask=d < D)


@triton.jit
def router_kernel(
    x, norm, weight, bias, normed, logits, eps,
    E: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):
    """RMSNorm of x [K] -> normed [K], and the router's product with it -> logits [E], float32 in any arithmetic."""
    normalizer = _normalizer(x, eps, K, WIDTH)
    program = tl.program_id(0)
    _normed_rows(x, norm, normalizer, weight, bias, logits, program * ROWS, E, K, ROWS, WIDTH, False, True)
    if program == 0:
        for start in range(0, K, WIDTH):
            k = start + tl.arange(0, WIDTH)
            tl.store(normed + k, _normed(x, norm, normalizer, k, k < K, False), mask=k < K)


@triton.jit
def spread_kernel(normed, inputs, K: tl.constexpr, WIDTH: tl.constexpr, ROUND: tl.constexpr):
    """normed [K] -> inputs [8, K / 8] for _mxfp4_rows: element 8w + j, rounded and times 2^64, is at [j, w]."""
    k = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    value = tl.load(normed + k, mask=k < K, other=0.0)
    if ROUND:
        value = value.to(tl.bfloat16).to(tl.float32)
    tl.store(inputs + (k % 8) * (K // 8) + k // 8, value * INPUT_FACTOR, mask=k < K)


@triton.jit
def choose_kernel(
    logits, experts, shares, uses,
    E: tl.constexpr, A: tl.constexpr, E_WIDTH: tl.constexpr, A_WIDTH: tl.constexpr,
):
    """The A largest logits [E] -> experts [A] int64 and the softmax of them, shares [A]; counts their uses [E]."""
    e, a = tl.arange(0, E_WIDTH), tl.arange(0, A_WIDTH)
    left = tl.load(logits + e, mask=e < E, other=-float("inf"))
    best = tl.full((A_WIDTH,), -float("inf"), tl.float32)
    chosen = tl.zeros((A_WIDTH,), tl.int32)
    for n in tl.static_range(A):
        highest = tl.max(left, axis=0)
        which = tl.minimum(tl.argmax(left, axis=0), E - 1)  # logits may be NaN
        best = tl.where(a == n, highest, best)
        chosen = tl.where(a == n, which, chosen)
        left = tl.where(e == which, -float("inf"), left)
    exponentials = tl.exp(best - tl.max(best, axis=0))
    tl.store(shares + a, exponentials / tl.sum(exponentials, axis=0), mask=a < A)
    tl.store(experts + a, chosen.to(tl.int64), mask=a < A)
    count = tl.load(uses + chosen, mask=a < A, other=0)
    tl.store(uses + chosen, count + 1, mask=a < A)


@triton.jit
def scale_factor(scale):
    """The factor of E8M0 scales, int32: 2^(scale - 127), or NaN."""
    return tl.where(scale == _NO_SCALE, _NAN_BITS, scale << 23).to(tl.float32, bitcast=True)


@triton.jit
def _mxfp4_rows(blocks, scales, x, rows, there, WORDS: tl.constexpr, WIDTH: tl.constexpr):
    """Products of MXFP4 rows [R] int64 with x [8, WORDS] float32 -> [R]; x[j, w] is element 8w + j times 2^64.

    Element j of a word is its nibble j: sign, two bits of exponent (bias 1), one of mantissa (OCP MX v1.0, E2M1).
    """
    # Four words are a block of 32 elements, which share a scale: 2^(scale - 127), or NaN. A thread holds whole blocks
    # and loads their scales itself, so threads exchange nothing in the loop. With a scale loaded for each word instead,
    # Triton 3.6 moves the scales through shared memory, with a barrier in each round.
    total = tl.zeros((rows.shape[0], WIDTH // 4), tl.float32)
    for start in range(0, WORDS, WIDTH):
        words, block = start + tl.arange(0, WIDTH), start // 4 + tl.arange(0, WIDTH // 4)
        wanted = there[:, None] & (words < WORDS)[None, :]
        packed = tl.load(blocks + (rows[:, None] * WORDS + words[None, :]), mask=wanted, other=0)
        known = there[:, None] & (block < WORDS // 4)[None, :]
        exponent = tl.load(scales + (rows[:, None] * (WORDS // 4) + block[None, :]), mask=known, other=0).to(tl.int32)
        part = tl.zeros((rows.shape[0], WIDTH), tl.float32)
        for j in tl.static_range(8):
            factor = tl.load(x + j * WORDS + words, mask=words < WORDS, other=0.0)
            if j < 6:  # noqa: SIM108 - decided when it is compiled
                value = (packed << (22 - 4 * j)) & VALUE_BITS
            else:
                value = (packed >> (4 * j - 22)) & VALUE_BITS
            sign = (packed << (28 - 4 * j)) & SIGN_BIT
            part += (sign | value).to(tl.float32, bitcast=True) * factor[None, :]
        total += tl.sum(tl.reshape(part, (rows.shape[0], WIDTH // 4, 4)), axis=2) * scale_factor(exponent)
    return tl.sum(total, axis=1) * _SUM_FACTOR


@triton.jit
def gate_up_kernel(
    x, experts, block_places, scale_places, blocks, scales, bias, hidden, limit, alpha,
    F: tl.constexpr, WORDS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, ROUND: tl.constexpr,
):
    """Of the expert experts[program 1]: ROWS gate and up rows, and swiglu of them -> hidden [A, 8, F / 8].

    Expert e's blocks begin block_places[e] times 16 bytes after `blocks`, its scales scale_places[e] bytes after
    `scales`, wherever that is.
    """
    slot = tl.program_id(1)
    expert = tl.load(experts + slot)
    own_blocks = blocks + tl.load(block_places + expert) * 4
    own_scales = scales + tl.load(scale_places + expert)
    pair = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = pair < F
    row = 2 * pair.to(tl.int64)
    gate = _mxfp4_rows(own_blocks, own_scales, x, row, there, WORDS, WIDTH)
    gate += tl.load(bias + expert * (2 * F) + row, mask=there, other=0.0).to(tl.float32)
    up = _mxfp4_rows(own_blocks, own_scales, x, row + 1, there, WORDS, WIDTH)
    up += tl.load(bias + expert * (2 * F) + row + 1, mask=there, other=0.0).to(tl.float32)
    # Written so that NaN stays NaN.
    gate = tl.where(gate > limit, limit, gate)
    up = tl.where(up > limit, limit, tl.where(up < -limit, -limit, up))
    made = (up + 1.0) * gate / (1.0 + tl.exp(-alpha * gate))
    if ROUND:
        made = made.to(tl.bfloat16).to(tl.float32)
    tl.store(hidden + slot * F + (pair % 8) * (F // 8) + pair // 8, made * INPUT_FACTOR, mask=there)


@triton.jit
def down_kernel(
    x, hidden, experts, shares, block_places, scale_places, blocks, scales, bias, mixed,
    C: tl.constexpr, A: tl.constexpr, WORDS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):
    """ROWS rows of x [C] plus the shared sum of the A experts' down products -> mixed [C]."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < C
    total = tl.load(x + row, mask=there, other=0.0)
    for slot in range(A):
        expert = tl.load(experts + slot)
        own_blocks = blocks + tl.load(block_places + expert) * 4
        own_scales = scales + tl.load(scale_places + expert)
        made = _mxfp4_rows(own_blocks, own_scales, hidden + slot * WORDS * 8, row.to(tl.int64), there, WORDS, WIDTH)
        made += tl.load(bias + expert * C + row, mask=there, other=0.0).to(tl.float32)
        total += tl.load(shares + slot) * made
    tl.store(mixed + row, total, mask=there)
