"""The GPU kernels for one token, for Triton 3.6 to 3.9. cuda.py launches them.

Weights are read as they lie in the checkpoint. Sums are float32. The position is read from device memory, so that a
CUDA graph can be replayed for another position. Triton's blocks have powers of two as sizes: masks exclude what lies
beyond the end of an axis.
"""

import triton
import triton.language as tl

# fmt: off

@triton.jit
def _inverse_rms(x, eps, K: tl.constexpr, WIDTH: tl.constexpr):
    """Return 1 / sqrt(mean(x^2) + eps) of x [K]."""
    squares = tl.zeros((WIDTH,), tl.float32)
    for start in range(0, K, WIDTH):
        k = start + tl.arange(0, WIDTH)
        value = tl.load(x + k, mask=k < K, other=0.0)
        squares += value * value
    return 1.0 / tl.sqrt_rn(tl.sum(squares) / K + eps)


@triton.jit
def _normed(x, norm, inverse_rms, k, k_mask, ROUND: tl.constexpr):
    """Return RMSNorm of x at elements `k`, rounded to bfloat16 with ROUND."""
    value = tl.load(x + k, mask=k_mask, other=0.0) * inverse_rms
    value *= tl.load(norm + k, mask=k_mask, other=0.0).to(tl.float32)
    if ROUND:
        value = value.to(tl.bfloat16).to(tl.float32)
    return value


@triton.jit
def _dense_rows(
    x, norm, inverse_rms, weight, bias, y, first, count,
    K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, ROUND: tl.constexpr, BIASED: tl.constexpr,
):
    """Multiply ROWS rows of weight [count, K] bf16, from `first` on, with the normed x, and add bias -> y [count]."""
    row = first + tl.arange(0, ROWS)
    row_mask = row < count
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, K, WIDTH):
        k = start + tl.arange(0, WIDTH)
        value = _normed(x, norm, inverse_rms, k, k < K, ROUND)
        weight_offset = row.to(tl.int64)[:, None] * K + k[None, :]
        weight_mask = row_mask[:, None] & (k < K)[None, :]
        weights = tl.load(weight + weight_offset, mask=weight_mask, other=0.0).to(tl.float32)
        total += weights * value[None, :]
    result = tl.sum(total, axis=1)
    if BIASED:
        result += tl.load(bias + row, mask=row_mask, other=0.0).to(tl.float32)
    tl.store(y + row, result, mask=row_mask)


@triton.jit
def qkv_kernel(
    x, norm, query, query_bias, key, key_bias, value, value_bias, queries, keys, values, eps,
    QUERY: tl.constexpr, KEY: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    ROUND: tl.constexpr,
):
    """Compute RMSNorm of x [K] and three products -> queries [QUERY], keys and values [KEY] float32."""
    inverse_rms = _inverse_rms(x, eps, K, WIDTH)
    program = tl.program_id(0)
    query_programs: tl.constexpr = (QUERY + ROWS - 1) // ROWS
    key_programs: tl.constexpr = (KEY + ROWS - 1) // ROWS
    if program < query_programs:
        _dense_rows(
            x, norm, inverse_rms, query, query_bias, queries, program * ROWS, QUERY, K, ROWS, WIDTH, ROUND, True
        )
    elif program < query_programs + key_programs:
        first = (program - query_programs) * ROWS
        _dense_rows(x, norm, inverse_rms, key, key_bias, keys, first, KEY, K, ROWS, WIDTH, ROUND, True)
    else:
        first = (program - query_programs - key_programs) * ROWS
        _dense_rows(x, norm, inverse_rms, value, value_bias, values, first, KEY, K, ROWS, WIDTH, ROUND, True)


@triton.jit
def unembed_kernel(
    x, norm, weight, logits, eps, rows,
    K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, ROUND: tl.constexpr,
):
    """Compute RMSNorm of x [K] and its product with weight [rows, K] -> logits [rows] float32."""
    inverse_rms = _inverse_rms(x, eps, K, WIDTH)
    first = tl.program_id(0) * ROWS
    _dense_rows(x, norm, inverse_rms, weight, norm, logits, first, rows, K, ROWS, WIDTH, ROUND, False)


@triton.jit
def output_kernel(
    x, attended, weight, bias, y,
    C: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, ROUND: tl.constexpr,
):
    """Compute x [C] plus weight [C, K] times attended [K] plus bias -> y [C]."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row_mask = row < C
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, K, WIDTH):
        k = start + tl.arange(0, WIDTH)
        value = tl.load(attended + k, mask=k < K, other=0.0)
        if ROUND:
            value = value.to(tl.bfloat16).to(tl.float32)
        weight_offset = row[:, None] * K + k[None, :]
        weight_mask = row_mask[:, None] & (k < K)[None, :]
        weights = tl.load(weight + weight_offset, mask=weight_mask, other=0.0).to(tl.float32)
        total += weights * value[None, :]
    result = tl.sum(total, axis=1) + tl.load(bias + row, mask=row_mask, other=0.0).to(tl.float32)
    tl.store(y + row, tl.load(x + row, mask=row_mask, other=0.0) + result, mask=row_mask)


@triton.jit
def rotate_kernel(
    queries, keys, values, cos, sin, position, rotated, cached_keys, cached_values,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, HALF_WIDTH: tl.constexpr, WINDOW: tl.constexpr,
):
    """Rotate query head `program` of HEADS, or rotate and cache one key head and cache its values.

    WINDOW is 0 if the cache holds every position.
    """
    head = tl.program_id(0)
    i = tl.arange(0, HALF_WIDTH)
    i_mask = i < HALF
    c = tl.load(cos + i, mask=i_mask, other=0.0)
    s = tl.load(sin + i, mask=i_mask, other=0.0)
    if head < HEADS:
        head_offset = head * 2 * HALF + i
        first = tl.load(queries + head_offset, mask=i_mask, other=0.0)
        second = tl.load(queries + head_offset + HALF, mask=i_mask, other=0.0)
        tl.store(rotated + head_offset, first * c - second * s, mask=i_mask)
        tl.store(rotated + head_offset + HALF, second * c + first * s, mask=i_mask)
    else:
        slot = tl.load(position).to(tl.int64)
        if WINDOW > 0:
            slot = slot % WINDOW
        head_offset = (head - HEADS) * 2 * HALF + i
        cache_offset = slot * (KV_HEADS * 2 * HALF) + head_offset
        first = tl.load(keys + head_offset, mask=i_mask, other=0.0)
        second = tl.load(keys + head_offset + HALF, mask=i_mask, other=0.0)
        dtype = cached_keys.dtype.element_ty
        tl.store(cached_keys + cache_offset, (first * c - second * s).to(dtype), mask=i_mask)
        tl.store(cached_keys + cache_offset + HALF, (second * c + first * s).to(dtype), mask=i_mask)
        value = tl.load(values + head_offset, mask=i_mask, other=0.0)
        tl.store(cached_values + cache_offset, value.to(dtype), mask=i_mask)
        value = tl.load(values + head_offset + HALF, mask=i_mask, other=0.0)
        tl.store(cached_values + cache_offset + HALF, value.to(dtype), mask=i_mask)


@triton.jit
def attend_kernel(
    rotated, cached_keys, cached_values, sinks, position, partial, attended, factor,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, GROUP_WIDTH: tl.constexpr, D_WIDTH: tl.constexpr,
    KEYS: tl.constexpr, SPLITS: tl.constexpr, WINDOW: tl.constexpr,
):
    """Attend with the GROUP query heads of kv head `program 0` to split `program 1` of the positions.

    With one split the result is attended [KV_HEADS * GROUP * D]. Otherwise partial [KV_HEADS, SPLITS, GROUP, 2 + D]
    receives the largest score, the sum of exponentials and the weighted sum of values, for combine_kernel.
    """
    head, split = tl.program_id(0), tl.program_id(1)
    length = tl.load(position) + 1
    if WINDOW > 0:
        length = tl.minimum(length, WINDOW)
    split_length = tl.cdiv(tl.cdiv(length, SPLITS), KEYS) * KEYS
    begin = split * split_length
    end = tl.minimum(length, begin + split_length)
    g, d = tl.arange(0, GROUP_WIDTH), tl.arange(0, D_WIDTH)
    g_mask, d_mask = g < GROUP, d < D
    head_offset = (head * GROUP + g)[:, None] * D + d[None, :]
    head_mask = g_mask[:, None] & d_mask[None, :]
    query = tl.load(rotated + head_offset, mask=head_mask, other=0.0) * factor
    max_score = tl.full((GROUP_WIDTH,), -1.0e30, tl.float32)
    sum_exp = tl.zeros((GROUP_WIDTH,), tl.float32)
    weighted_sum = tl.zeros((GROUP_WIDTH, D_WIDTH), tl.float32)
    for start in range(begin, end, KEYS):
        slot = start + tl.arange(0, KEYS)
        in_split = slot < end
        kv_offset = (slot.to(tl.int64) * KV_HEADS + head)[:, None] * D + d[None, :]
        kv_mask = in_split[:, None] & d_mask[None, :]
        key = tl.load(cached_keys + kv_offset, mask=kv_mask, other=0.0).to(tl.float32)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee")
        scores = tl.where(in_split[None, :], scores, -1.0e30)
        new_max = tl.maximum(max_score, tl.max(scores, axis=1))
        rescale = tl.exp(max_score - new_max)
        probs = tl.where(in_split[None, :], tl.exp(scores - new_max[:, None]), 0.0)
        sum_exp = sum_exp * rescale + tl.sum(probs, axis=1)
        value = tl.load(cached_values + kv_offset, mask=kv_mask, other=0.0).to(tl.float32)
        weighted_sum = weighted_sum * rescale[:, None] + tl.dot(probs, value, input_precision="ieee")
        max_score = new_max
    if SPLITS == 1:
        sink = tl.load(sinks + head * GROUP + g, mask=g_mask, other=0.0).to(tl.float32)
        new_max = tl.maximum(max_score, sink)
        rescale = tl.exp(max_score - new_max)
        denominator = sum_exp * rescale + tl.exp(sink - new_max)
        tl.store(attended + head_offset, weighted_sum * (rescale / denominator)[:, None], mask=head_mask)
    else:
        row = ((head * SPLITS + split) * GROUP + g) * (2 + D)
        tl.store(partial + row, max_score, mask=g_mask)
        tl.store(partial + row + 1, sum_exp, mask=g_mask)
        tl.store(partial + row[:, None] + 2 + d[None, :], weighted_sum, mask=head_mask)


@triton.jit
def combine_kernel(
    partial, sinks, attended,
    GROUP: tl.constexpr, D: tl.constexpr, D_WIDTH: tl.constexpr, SPLITS: tl.constexpr,
):
    """Combine the splits of query head `program`, and its sink -> attended."""
    query_head = tl.program_id(0)
    head, g = query_head // GROUP, query_head % GROUP
    split, d = tl.arange(0, SPLITS), tl.arange(0, D_WIDTH)
    row = ((head * SPLITS + split) * GROUP + g) * (2 + D)
    max_score = tl.load(partial + row)
    sink = tl.load(sinks + query_head).to(tl.float32)
    new_max = tl.maximum(tl.max(max_score), sink)
    rescale = tl.exp(max_score - new_max)
    denominator = tl.sum(tl.load(partial + row + 1) * rescale) + tl.exp(sink - new_max)
    head_mask = (d < D)[None, :] & (split >= 0)[:, None]
    weighted_sums = tl.load(partial + row[:, None] + 2 + d[None, :], mask=head_mask, other=0.0)
    tl.store(attended + query_head * D + d, tl.sum(weighted_sums * rescale[:, None], axis=0) / denominator, mask=d < D)


@triton.jit
def router_kernel(
    x, norm, weight, bias, normed, logits, eps,
    E: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):
    """Compute RMSNorm of x [K] -> normed [K], and router logits [E], float32 in any arithmetic."""
    inverse_rms = _inverse_rms(x, eps, K, WIDTH)
    program = tl.program_id(0)
    _dense_rows(x, norm, inverse_rms, weight, bias, logits, program * ROWS, E, K, ROWS, WIDTH, False, True)
    if program == 0:
        for start in range(0, K, WIDTH):
            k = start + tl.arange(0, WIDTH)
            tl.store(normed + k, _normed(x, norm, inverse_rms, k, k < K, False), mask=k < K)


@triton.jit
def top_k_kernel(
    logits, experts, expert_weights, uses,
    E: tl.constexpr, A: tl.constexpr, E_WIDTH: tl.constexpr, A_WIDTH: tl.constexpr,
):
    """Find the A largest logits [E] -> experts [A] int64 and expert_weights [A], their softmax; count uses [E]."""
    e, a = tl.arange(0, E_WIDTH), tl.arange(0, A_WIDTH)
    remaining = tl.load(logits + e, mask=e < E, other=-float("inf"))
    top_logits = tl.full((A_WIDTH,), -float("inf"), tl.float32)
    chosen = tl.zeros((A_WIDTH,), tl.int32)
    for n in tl.static_range(A):
        largest = tl.max(remaining, axis=0)
        expert = tl.minimum(tl.argmax(remaining, axis=0), E - 1)  # logits may be NaN
        top_logits = tl.where(a == n, largest, top_logits)
        chosen = tl.where(a == n, expert, chosen)
        remaining = tl.where(e == expert, -float("inf"), remaining)
    exponentials = tl.exp(top_logits - tl.max(top_logits, axis=0))
    tl.store(expert_weights + a, exponentials / tl.sum(exponentials, axis=0), mask=a < A)
    tl.store(experts + a, chosen.to(tl.int64), mask=a < A)
    count = tl.load(uses + chosen, mask=a < A, other=0)
    tl.store(uses + chosen, count + 1, mask=a < A)
