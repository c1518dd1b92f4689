"""The GPU kernels of dense products, the router and attention for one token, for Triton 3.6 to 3.9.

cuda_decode.py launches them. Weights are read as they lie in the checkpoint; inputs and sums are float32. A program of
a dense product multiplies whole rows, read in at most four rounds of WIDTH columns and without a loop: it asks for all
its weights before it looks at x. Rows after the last one are computed again and not stored.

The position is read from device memory, so that a CUDA graph can be replayed for another position. Triton's blocks have
powers of two as sizes: masks exclude what lies beyond the end of an axis.
"""

import triton
import triton.language as tl

from gptoss_cli.engine.kernels.compilation import kernel
from gptoss_cli.engine.kernels.triton_experts import input_factors, launch_next, store_inputs, wait_for_previous
from gptoss_cli.engine.kernels.triton_offload import look_up_experts

# fmt: off

_LOG2_E = tl.constexpr(1.4426950408889634)

@triton.jit
def _round(weight, row, START: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr):
    """Return columns START to START + WIDTH of rows [R] of weight [..., K]; 0 after the last column."""
    k = START + tl.arange(0, WIDTH)
    at = row.to(tl.int64)[:, None] * K + k[None, :]
    return tl.load(weight + at) if START + WIDTH <= K else tl.load(weight + at, mask=(k < K)[None, :], other=0.0)


@triton.jit
def _rounds(weight, row, K: tl.constexpr, WIDTH: tl.constexpr):
    """Return the up to four rounds of rows [R], and the first again for those that there are not."""
    tl.static_assert(K <= 4 * WIDTH)
    first = _round(weight, row, 0, K, WIDTH)
    second, third, fourth = first, first, first
    if WIDTH < K:
        second = _round(weight, row, WIDTH, K, WIDTH)
    if 2 * WIDTH < K:
        third = _round(weight, row, 2 * WIDTH, K, WIDTH)
    if 3 * WIDTH < K:
        fourth = _round(weight, row, 3 * WIDTH, K, WIDTH)
    return first, second, third, fourth


@triton.jit
def _inputs(x, START: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr):
    """Return WIDTH elements of x [K] from START on, float32; 0 after the last one."""
    k = START + tl.arange(0, WIDTH)
    return tl.load(x + k, mask=k < K, other=0.0).to(tl.float32)


@triton.jit
def _all_inputs(x, K: tl.constexpr, WIDTH: tl.constexpr):
    """Return the four rounds of x [K]; those after the last one are 0."""
    return (
        _inputs(x, 0, K, WIDTH), _inputs(x, WIDTH, K, WIDTH),
        _inputs(x, 2 * WIDTH, K, WIDTH), _inputs(x, 3 * WIDTH, K, WIDTH),
    )


@triton.jit
def _normed_inputs(x, norm, eps, K: tl.constexpr, WIDTH: tl.constexpr):
    """Return the four rounds of RMSNorm of x [K]."""
    n0, n1, n2, n3 = _all_inputs(norm, K, WIDTH)
    x0, x1, x2, x3 = _all_inputs(x, K, WIDTH)
    inverse_rms = tl.rsqrt(tl.sum(x0 * x0 + x1 * x1 + x2 * x2 + x3 * x3) / K + eps)
    return x0 * inverse_rms * n0, x1 * inverse_rms * n1, x2 * inverse_rms * n2, x3 * inverse_rms * n3


@triton.jit
def _products(w0, w1, w2, w3, x0, x1, x2, x3, K: tl.constexpr, WIDTH: tl.constexpr):
    """Multiply the rounds of rows with those of x -> [R]."""
    total = w0.to(tl.float32) * x0[None, :]
    if WIDTH < K:
        total += w1.to(tl.float32) * x1[None, :]
    if 2 * WIDTH < K:
        total += w2.to(tl.float32) * x2[None, :]
    if 3 * WIDTH < K:
        total += w3.to(tl.float32) * x3[None, :]
    return tl.sum(total, axis=1)


@kernel
def qkv_kernel(
    x, norm, query, query_bias, key, key_bias, value, value_bias, qkv, eps,
    QUERY: tl.constexpr, KEY: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):
    """Compute RMSNorm of x [K] and its product with three matrices, of QUERY, KEY and KEY rows -> qkv float32."""
    launch_next(PDL)
    program = tl.program_id(0)
    query_programs: tl.constexpr = (QUERY + ROWS - 1) // ROWS
    key_programs: tl.constexpr = (KEY + ROWS - 1) // ROWS
    if program < query_programs:
        begin, count, own = 0, QUERY, program * ROWS
        row = tl.minimum(own + tl.arange(0, ROWS), QUERY - 1)
        w0, w1, w2, w3 = _rounds(query, row, K, WIDTH)
        bias = tl.load(query_bias + row).to(tl.float32)
    elif program < query_programs + key_programs:
        begin, count, own = QUERY, KEY, (program - query_programs) * ROWS
        row = tl.minimum(own + tl.arange(0, ROWS), KEY - 1)
        w0, w1, w2, w3 = _rounds(key, row, K, WIDTH)
        bias = tl.load(key_bias + row).to(tl.float32)
    else:
        begin, count, own = QUERY + KEY, KEY, (program - query_programs - key_programs) * ROWS
        row = tl.minimum(own + tl.arange(0, ROWS), KEY - 1)
        w0, w1, w2, w3 = _rounds(value, row, K, WIDTH)
        bias = tl.load(value_bias + row).to(tl.float32)
    wait_for_previous(PDL)
    x0, x1, x2, x3 = _normed_inputs(x, norm, eps, K, WIDTH)
    result = _products(w0, w1, w2, w3, x0, x1, x2, x3, K, WIDTH) + bias
    tl.store(qkv + begin + row, result, mask=own + tl.arange(0, ROWS) < count)


@kernel
def unembed_kernel(
    x, norm, weight, logits, eps, rows,
    K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, PDL: tl.constexpr,
):
    """Compute RMSNorm of x [K] and its product with weight [rows, K] -> logits [rows] float32."""
    launch_next(PDL)
    own = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = tl.minimum(own, rows - 1)
    w0, w1, w2, w3 = _rounds(weight, row, K, WIDTH)
    wait_for_previous(PDL)
    x0, x1, x2, x3 = _normed_inputs(x, norm, eps, K, WIDTH)
    tl.store(logits + row, _products(w0, w1, w2, w3, x0, x1, x2, x3, K, WIDTH), mask=own < rows)


@kernel
def output_kernel(
    x, attended, weight, bias, y,
    C: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, PDL: tl.constexpr,
):
    """Compute x [C] plus weight [C, K] times attended [K] plus bias -> y [C]."""
    launch_next(PDL)
    own = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = tl.minimum(own, C - 1)
    w0, w1, w2, w3 = _rounds(weight, row, K, WIDTH)
    added = tl.load(bias + row).to(tl.float32)
    wait_for_previous(PDL)
    added += tl.load(x + row)
    x0, x1, x2, x3 = _all_inputs(attended, K, WIDTH)
    tl.store(y + row, added + _products(w0, w1, w2, w3, x0, x1, x2, x3, K, WIDTH), mask=own < C)


@triton.jit
def _choose(
    logits, experts, expert_weights,
    E: tl.constexpr, A: tl.constexpr, E_WIDTH: tl.constexpr, A_WIDTH: tl.constexpr,
):
    """Find the A largest logits [E] -> experts [A] int64 and expert_weights [A], their softmax. Returns the experts."""
    e, a = tl.arange(0, E_WIDTH), tl.arange(0, A_WIDTH)
    # Not from the cache of this multiprocessor, which does not see what others store.
    remaining = tl.load(logits + e, mask=e < E, other=-float("inf"), cache_modifier=".cg")
    top_logits = tl.full((A_WIDTH,), -float("inf"), tl.float32)
    chosen = tl.zeros((A_WIDTH,), tl.int32)
    for n in tl.static_range(A):
        largest, expert = tl.max(remaining, axis=0, return_indices=True)
        expert = tl.minimum(expert, E - 1)  # logits may be NaN
        top_logits = tl.where(a == n, largest, top_logits)
        chosen = tl.where(a == n, expert, chosen)
        remaining = tl.where(e == expert, -float("inf"), remaining)
    exponentials = tl.exp(top_logits - tl.max(top_logits, axis=0))
    tl.store(expert_weights + a, exponentials / tl.sum(exponentials, axis=0), mask=a < A)
    tl.store(experts + a, chosen.to(tl.int64), mask=a < A)
    return chosen


@triton.jit
def _store_normed(
    x0, x1, x2, x3, normed, inputs, sum_factor, K: tl.constexpr, WIDTH: tl.constexpr, PAIRS: tl.constexpr
):
    """Store the four rounds of a normed x as normed [K], and as pack_kernel does."""
    k = tl.arange(0, WIDTH)
    largest = tl.maximum(tl.maximum(tl.abs(x0), tl.abs(x1)), tl.maximum(tl.abs(x2), tl.abs(x3)))
    factor, undone = input_factors(tl.max(largest), PAIRS)
    tl.store(sum_factor, undone)
    tl.store(normed + k, x0, mask=k < K)
    store_inputs(inputs, x0 * factor, k, K, PAIRS)
    if WIDTH < K:
        tl.store(normed + WIDTH + k, x1, mask=WIDTH + k < K)
        store_inputs(inputs, x1 * factor, WIDTH + k, K, PAIRS)
    if 2 * WIDTH < K:
        tl.store(normed + 2 * WIDTH + k, x2, mask=2 * WIDTH + k < K)
        store_inputs(inputs, x2 * factor, 2 * WIDTH + k, K, PAIRS)
    if 3 * WIDTH < K:
        tl.store(normed + 3 * WIDTH + k, x3, mask=3 * WIDTH + k < K)
        store_inputs(inputs, x3 * factor, 3 * WIDTH + k, K, PAIRS)


@kernel(do_not_specialize=["replaceable"])
def router_kernel(
    x, norm, weight, bias, normed, inputs, sum_factor, logits, arrived, experts, expert_weights,
    held, used_at, counts, chosen_slots, replaceable, eps,
    E: tl.constexpr, A: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    E_WIDTH: tl.constexpr, A_WIDTH: tl.constexpr, PAIRS: tl.constexpr, PDL: tl.constexpr, OFFLOADED: tl.constexpr,
):
    """Choose experts [A] int64 and their weights [A] for x [K], and prepare x for their products.

    Its RMSNorm goes to normed [K], and to `inputs` and `sum_factor` as from pack_kernel. The last program to arrive
    chooses from the logits [E] of all; arrived [1] int32 must be 0 before and is 0 afterwards. With OFFLOADED it also
    looks up the experts.
    """
    launch_next(PDL)
    own = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = tl.minimum(own, E - 1)
    w0, w1, w2, w3 = _rounds(weight, row, K, WIDTH)
    added = tl.load(bias + row).to(tl.float32)
    wait_for_previous(PDL)
    x0, x1, x2, x3 = _normed_inputs(x, norm, eps, K, WIDTH)
    tl.store(logits + row, added + _products(w0, w1, w2, w3, x0, x1, x2, x3, K, WIDTH), mask=own < E)
    if tl.program_id(0) == 0:
        _store_normed(x0, x1, x2, x3, normed, inputs, sum_factor, K, WIDTH, PAIRS)
    tl.debug_barrier()  # all threads have stored before one of them says so
    if tl.atomic_add(arrived, 1, sem="acq_rel") == tl.num_programs(0) - 1:
        chosen = _choose(logits, experts, expert_weights, E, A, E_WIDTH, A_WIDTH)
        if OFFLOADED:
            look_up_experts(chosen, held, used_at, counts, chosen_slots, replaceable, E, A, E_WIDTH, A_WIDTH)
        tl.store(arrived, 0)


@triton.jit
def _rotated(heads, cos, sin, offset, d, D: tl.constexpr):
    """Return elements d of the rotated heads that begin at `offset`: d of the first half turns with d + D/2."""
    half: tl.constexpr = D // 2
    c = tl.load(cos + d % half, mask=d < D, other=0.0)
    s = tl.load(sin + d % half, mask=d < D, other=0.0)
    own = tl.load(heads + offset + d, mask=d < D, other=0.0)
    partner = tl.load(heads + offset + (d + half) % D, mask=d < D, other=0.0)
    return own * c + partner * tl.where(d < half, -s, s)


@triton.jit
def _in_two_parts(value, SPLIT: tl.constexpr):
    """Return [2 * R, N] with the parts of value [R, N]: what bfloat16 holds of it, and what that leaves out."""
    if SPLIT:
        high = value.to(tl.bfloat16)
        low = (value - high.to(tl.float32)).to(tl.bfloat16)
    else:
        high, low = value, tl.zeros_like(value)
    parts = tl.permute(tl.join(high, low), (2, 0, 1))
    return tl.reshape(parts, (2 * value.shape[0], value.shape[1]))


@triton.jit
def _dot_of_parts(parts, b, UPCAST: tl.constexpr):
    """Return the product of `_in_two_parts` of a [R, K] with b [K, N] -> float32 [R, N]."""
    if UPCAST:  # noqa: SIM108 - decided when it is compiled
        product = tl.dot(parts.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        product = tl.dot(parts, b)
    return tl.sum(tl.reshape(product, (2, product.shape[0] // 2, product.shape[1])), axis=0)


@triton.jit
def _append(
    keys, values, cos, sin, cached_keys, cached_values, head, slot,
    KV_HEADS: tl.constexpr, D: tl.constexpr, D_WIDTH: tl.constexpr,
):
    """Store the rotated key and the value of kv head `head` in `slot` of the cache."""
    d = tl.arange(0, D_WIDTH)
    dtype = cached_keys.dtype.element_ty
    cached = (slot.to(tl.int64) * KV_HEADS + head) * D + d
    tl.store(cached_keys + cached, _rotated(keys, cos, sin, head * D, d, D).to(dtype), mask=d < D)
    value = tl.load(values + head * D + d, mask=d < D, other=0.0)
    tl.store(cached_values + cached, value.to(dtype), mask=d < D)


@triton.jit
def _combine(
    partial, maxima, sums, sink, first, splits, GROUP_WIDTH: tl.constexpr, D_WIDTH: tl.constexpr, CHUNK: tl.constexpr
):
    """Return the attention of a group [GROUP_WIDTH, D_WIDTH] from the first `splits` parts, from row `first` on."""
    g, d, part = tl.arange(0, GROUP_WIDTH), tl.arange(0, D_WIDTH), tl.arange(0, CHUNK)
    max_score = sink
    denominator = tl.full((GROUP_WIDTH,), 1.0, tl.float32)  # the sink's own part
    weighted_sum = tl.zeros((GROUP_WIDTH, D_WIDTH), tl.float32)
    for start in range(0, splits, CHUNK):
        row = (first + start + part)[:, None] * GROUP_WIDTH + g[None, :]
        mask = (start + part < splits)[:, None] & (g >= 0)[None, :]
        # Not from the cache of this multiprocessor, which does not see what others store.
        scores = tl.load(maxima + row, mask=mask, other=-1.0e30, cache_modifier=".cg")
        total = tl.load(sums + row, mask=mask, other=0.0, cache_modifier=".cg")
        offset = row[:, :, None] * D_WIDTH + d[None, None, :]
        values = tl.load(partial + offset, mask=mask[:, :, None], other=0.0, cache_modifier=".cg")
        new_max = tl.maximum(max_score, tl.max(scores, axis=0))
        shrink, rescale = tl.exp2(max_score - new_max), tl.exp2(scores - new_max[None, :])
        denominator = denominator * shrink + tl.sum(total * rescale, axis=0)
        weighted_sum = weighted_sum * shrink[:, None] + tl.sum(values * rescale[:, :, None], axis=0)
        max_score = new_max
    return weighted_sum / denominator[:, None]


@triton.jit
def _attend_keys(
    query, cached_keys, cached_values, head, begin, end,
    KV_HEADS: tl.constexpr, D: tl.constexpr, D_WIDTH: tl.constexpr, KEYS: tl.constexpr, UPCAST: tl.constexpr,
):
    """Attend with `_in_two_parts` of a group's queries to positions begin to end.

    Returns the largest scores [GROUP_WIDTH], sums of exponentials, and weighted sums of values [GROUP_WIDTH, D_WIDTH].
    """
    two_parts: tl.constexpr = cached_keys.dtype.element_ty == tl.bfloat16
    group_width: tl.constexpr = query.shape[0] // 2
    d = tl.arange(0, D_WIDTH)
    max_score = tl.full((group_width,), -1.0e30, tl.float32)
    sum_exp = tl.zeros((group_width,), tl.float32)
    weighted_sum = tl.zeros((group_width, D_WIDTH), tl.float32)
    for start in range(begin, end, KEYS):
        own = start + tl.arange(0, KEYS)
        in_split = own < end
        kv_offset = (own.to(tl.int64) * KV_HEADS + head)[:, None] * D + d[None, :]
        kv_mask = in_split[:, None] & (d < D)[None, :]
        key = tl.load(cached_keys + kv_offset, mask=kv_mask, other=0.0)
        value = tl.load(cached_values + kv_offset, mask=kv_mask, other=0.0)
        scores = _dot_of_parts(query, tl.trans(key), UPCAST)
        scores = tl.where(in_split[None, :], scores, -1.0e30)
        new_max = tl.maximum(max_score, tl.max(scores, axis=1))
        rescale = tl.exp2(max_score - new_max)
        # A tile begins with a key of the split, so that this is 0 for those that are not.
        probs = tl.exp2(scores - new_max[:, None])
        sum_exp = sum_exp * rescale + tl.sum(probs, axis=1)
        weighted_sum = weighted_sum * rescale[:, None] + _dot_of_parts(_in_two_parts(probs, two_parts), value, UPCAST)
        max_score = new_max
    return max_score, sum_exp, weighted_sum


@kernel
def attend_kernel(
    queries, keys, values, cos, sin, sinks, position, cached_keys, cached_values, partial, maxima, sums, arrived,
    attended, factor,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, GROUP_WIDTH: tl.constexpr, D_WIDTH: tl.constexpr,
    KEYS: tl.constexpr, SPLITS: tl.constexpr, CHUNK: tl.constexpr, WINDOW: tl.constexpr, UPCAST: tl.constexpr,
    PDL: tl.constexpr,
):
    """Attend with the GROUP query heads of kv head `program 0` to split `program 1` of the positions -> attended.

    Queries and the new key are rotated first, and the split that the new position belongs to caches its key and value.
    WINDOW is 0 if the cache holds every position. `factor` includes log2(e), so that exponentials are powers of two.

    Products are on tensor cores: a tile of 16 rows has the group's queries twice, what bfloat16 holds of them and what
    that leaves out, and so have the probabilities. With UPCAST they are of float32.

    With several splits each stores its largest score, sum of exponentials and weighted sum of values in maxima and sums
    [KV_HEADS, SPLITS, GROUP_WIDTH] and partial [..., D_WIDTH]. The last one to arrive combines them, always in the same
    order. arrived [KV_HEADS] int32 must be 0 before and is 0 afterwards.
    """
    launch_next(PDL)
    wait_for_previous(PDL)
    head, split = tl.program_id(0), tl.program_id(1)
    two_parts: tl.constexpr = cached_keys.dtype.element_ty == tl.bfloat16
    slot = tl.load(position)
    length = slot + 1
    if WINDOW > 0:
        length, slot = tl.minimum(length, WINDOW), slot % WINDOW
    split_length = tl.cdiv(tl.cdiv(length, SPLITS), KEYS) * KEYS
    begin = split * split_length
    end = tl.minimum(length, begin + split_length)
    if (begin <= slot) & (slot < end):
        _append(keys, values, cos, sin, cached_keys, cached_values, head, slot, KV_HEADS, D, D_WIDTH)
        tl.debug_barrier()  # the threads that read the key below are not those that stored it
    g, d = tl.arange(0, GROUP_WIDTH), tl.arange(0, D_WIDTH)
    group_head = head * GROUP + tl.minimum(g, GROUP - 1)
    query = _rotated(queries, cos, sin, group_head[:, None] * D, d[None, :], D) * factor
    query = _in_two_parts(query, two_parts)
    max_score, sum_exp, weighted_sum = _attend_keys(
        query, cached_keys, cached_values, head, begin, end, KV_HEADS, D, D_WIDTH, KEYS, UPCAST
    )
    sink = tl.load(sinks + group_head).to(tl.float32) * _LOG2_E
    attended_offset = (head * GROUP + g)[:, None] * D + d[None, :]
    attended_mask = (g < GROUP)[:, None] & (d < D)[None, :]
    if SPLITS == 1:
        new_max = tl.maximum(max_score, sink)
        rescale = tl.exp2(max_score - new_max)
        denominator = sum_exp * rescale + tl.exp2(sink - new_max)
        tl.store(attended + attended_offset, weighted_sum * (rescale / denominator)[:, None], mask=attended_mask)
    else:
        row = (head * SPLITS + split) * GROUP_WIDTH + g
        tl.store(maxima + row, max_score)
        tl.store(sums + row, sum_exp)
        tl.store(partial + row[:, None] * D_WIDTH + d[None, :], weighted_sum)
        tl.debug_barrier()  # all threads have stored before one of them says so
        if tl.atomic_add(arrived + head, 1, sem="acq_rel") == SPLITS - 1:
            splits = tl.cdiv(length, split_length)  # those after the last position have nothing
            combined = _combine(partial, maxima, sums, sink, head * SPLITS, splits, GROUP_WIDTH, D_WIDTH, CHUNK)
            tl.store(attended + attended_offset, combined, mask=attended_mask)
            tl.store(arrived + head, 0)
