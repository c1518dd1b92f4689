"""The GPU kernels of the experts of one token, for Triton 3.6 to 3.9. cuda_decode.py launches them.

Weights are read as they lie in the checkpoint. A program is one warp and has no loop: what a thread loads it also
multiplies, so threads exchange nothing before the sum at the end, and no load waits for another round.

With PAIRS, inputs are pairs of float16, and two products are computed at once; otherwise they are float32. An element
of MXFP4 (OCP MX v1.0) becomes a half whose value is that of the element times 2^-14:

    nibble of the word    bit 3 | 2  1     | 0           half    bit 15 | 11  10    | 9
                          sign  | exponent | mantissa            sign   | exponent  | mantissa

Products with a half of 11 bits are rounded to 11 bits, and so are the sums of four of them; all other sums are float32.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from gptoss_cli.engine.kernels.compilation import kernel
from gptoss_cli.engine.kernels.triton_offload import expert_address, look_up_experts

# fmt: off

# With float32 the bits of an element are its value times 2^-126, and products with them would be subnormal. So inputs
# are multiplied by 2^64 before, and sums by the remaining 2^62.
INPUT_FACTOR, SUM_FACTOR = tl.constexpr(2.0**64), tl.constexpr(2.0**62)
# Halves: the largest input gets the exponent 14, so that no sum of four products overflows.
HALF_SUM_FACTOR = tl.constexpr(2.0**14)
SIGN_BIT = tl.constexpr(-(2**31))
VALUE_BITS = tl.constexpr(0x01C00000)
_NAN_BITS = tl.constexpr(0x7FC00000)
_NO_SCALE = tl.constexpr(255)

# $1 is a word, $2 to $5 are pairs of inputs. Nibbles 0 and 4 become e0 and are multiplied with the first pair at once,
# nibbles 1 and 5 become e1, and so on.
_DOT_8 = tl.constexpr("""
{
.reg .b32 value, sign, e0, e1, e2, e3, sums;
.reg .b16 low, high;
.reg .f32 first, second;
shl.b32 value, $1, 9;
and.b32 value, value, 0x0E000E00;
shl.b32 sign, $1, 12;
and.b32 sign, sign, 0x80008000;
or.b32 e0, value, sign;
shl.b32 value, $1, 5;
and.b32 value, value, 0x0E000E00;
shl.b32 sign, $1, 8;
and.b32 sign, sign, 0x80008000;
or.b32 e1, value, sign;
shl.b32 value, $1, 1;
and.b32 value, value, 0x0E000E00;
shl.b32 sign, $1, 4;
and.b32 sign, sign, 0x80008000;
or.b32 e2, value, sign;
shr.u32 value, $1, 3;
and.b32 value, value, 0x0E000E00;
and.b32 sign, $1, 0x80008000;
or.b32 e3, value, sign;
mul.rn.f16x2 sums, e0, $2;
fma.rn.f16x2 sums, e1, $3, sums;
fma.rn.f16x2 sums, e2, $4, sums;
fma.rn.f16x2 sums, e3, $5, sums;
mov.b32 {low, high}, sums;
cvt.f32.f16 first, low;
cvt.f32.f16 second, high;
add.rn.f32 $0, first, second;
}
""")


@triton.jit
def launch_next(PDL: tl.constexpr):
    """Allow the next kernel to start as soon as all programs of this one have started.

    With PDL (programmatic dependent launch, from compute capability 9.0 on) a kernel loads its weights while the one
    before it ends. It calls `wait_for_previous` before it touches anything else.
    """
    if PDL:
        gdc_launch_dependents()


@triton.jit
def wait_for_previous(PDL: tl.constexpr):
    """Wait until all kernels before this one have ended and their results can be read. See `launch_next`."""
    if PDL:
        gdc_wait()


@triton.jit
def scale_factor(scale):
    """Return the factors of E8M0 scales, given as int32: 2^(scale - 127), or NaN."""
    return tl.where(scale == _NO_SCALE, _NAN_BITS, scale << 23).to(tl.float32, bitcast=True)


@triton.jit
def _as_half(bits):
    """Return the float16 of the lower 16 bits of an int32."""
    return (bits & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def _element(packed, J: tl.constexpr):
    """Return nibble J of words as the half of the picture above."""
    nibble = packed >> (4 * J)
    return _as_half((nibble & 7) << 9 | (nibble & 8) << 12)


@triton.jit
def _pair_products(packed, x, words, mask, WORDS: tl.constexpr, PTX: tl.constexpr):
    """Multiply words [R, W] with pairs x [4, WORDS] -> float32 [R, W], each a sum of eight products."""
    x0 = tl.load(x + words, mask=mask, other=0)[None, :]
    x1 = tl.load(x + WORDS + words, mask=mask, other=0)[None, :]
    x2 = tl.load(x + 2 * WORDS + words, mask=mask, other=0)[None, :]
    x3 = tl.load(x + 3 * WORDS + words, mask=mask, other=0)[None, :]
    if PTX:
        sums = tl.inline_asm_elementwise(
            _DOT_8, "=f,r,r,r,r,r", [packed, x0, x1, x2, x3], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        low = _element(packed, 0) * _as_half(x0)
        low += _element(packed, 1) * _as_half(x1)
        low += _element(packed, 2) * _as_half(x2)
        low += _element(packed, 3) * _as_half(x3)
        high = _element(packed, 4) * _as_half(x0 >> 16)
        high += _element(packed, 5) * _as_half(x1 >> 16)
        high += _element(packed, 6) * _as_half(x2 >> 16)
        high += _element(packed, 7) * _as_half(x3 >> 16)
        sums = low.to(tl.float32) + high.to(tl.float32)
    return sums


@triton.jit
def _float_products(packed, x, words, mask, WORDS: tl.constexpr):
    """Multiply words [R, W] with float32 x [8, WORDS] -> float32 [R, W], each a sum of eight products."""
    sums = tl.zeros(packed.shape, tl.float32)
    for j in tl.static_range(8):
        if j < 6:  # noqa: SIM108 - decided when it is compiled
            value = (packed << (22 - 4 * j)) & VALUE_BITS
        else:
            value = (packed >> (4 * j - 22)) & VALUE_BITS
        sign = (packed << (28 - 4 * j)) & SIGN_BIT
        inputs = tl.load(x + j * WORDS + words, mask=mask, other=0.0)
        sums += (sign | value).to(tl.float32, bitcast=True) * inputs[None, :]
    return sums


@triton.jit
def _load_words(blocks, scales, rows, START: tl.constexpr, WORDS: tl.constexpr, WIDTH: tl.constexpr):
    """Return WIDTH words [R, WIDTH] of `rows` from word START on, and their scales [R, WIDTH / 4] as they are."""
    words, block = START + tl.arange(0, WIDTH), START // 4 + tl.arange(0, WIDTH // 4)
    at, scale_at = rows[:, None] * WORDS + words[None, :], rows[:, None] * (WORDS // 4) + block[None, :]
    if START + WIDTH <= WORDS:
        packed, scale = tl.load(blocks + at), tl.load(scales + scale_at)
    else:
        packed = tl.load(blocks + at, mask=(words < WORDS)[None, :], other=0)
        scale = tl.load(scales + scale_at, mask=(block < WORDS // 4)[None, :], other=0)
    return packed, scale


@triton.jit
def _store_words(
    packed, scale, blocks, scales, rows, stored, START: tl.constexpr, WORDS: tl.constexpr, WIDTH: tl.constexpr
):
    """Store what `_load_words` returned at the same place of another expert, for the rows that are to be `stored`."""
    words, block = START + tl.arange(0, WIDTH), START // 4 + tl.arange(0, WIDTH // 4)
    at, scale_at = rows[:, None] * WORDS + words[None, :], rows[:, None] * (WORDS // 4) + block[None, :]
    tl.store(blocks + at, packed, mask=stored[:, None] & (words < WORDS)[None, :])
    tl.store(scales + scale_at, scale, mask=stored[:, None] & (block < WORDS // 4)[None, :])


@triton.jit
def _multiply(
    packed, scale, x, START: tl.constexpr, WORDS: tl.constexpr, PAIRS: tl.constexpr, PTX: tl.constexpr,
):
    """Multiply what `_load_words` returned with x -> float32 [R, WIDTH / 4], a sum for each block."""
    words = START + tl.arange(0, packed.shape[1])
    if PAIRS:
        sums = _pair_products(packed, x, words, words < WORDS, WORDS, PTX)
    else:
        sums = _float_products(packed, x, words, words < WORDS, WORDS)
    # Four words are a block of 32 elements with one scale, and they are one thread's.
    of_block = tl.sum(tl.reshape(sums, (packed.shape[0], packed.shape[1] // 4, 4)), axis=2)
    return of_block * scale_factor(scale.to(tl.int32))


@triton.jit
def _mxfp4_rows(
    blocks, scales, new_slot, slot_blocks, slot_scales, x, rows, stored,
    WORDS: tl.constexpr, WIDTH: tl.constexpr, PAIRS: tl.constexpr, PTX: tl.constexpr, OFFLOADED: tl.constexpr,
):
    """Multiply MXFP4 rows [R] int64 with x, pairs or [8, WORDS] float32 -> [R]. There are at most four rounds.

    With OFFLOADED, and unless `new_slot` is -1, the rows that are to be `stored` are also written to the expert at
    slot_blocks and slot_scales.
    """
    packed_0, scale_0 = _load_words(blocks, scales, rows, 0, WORDS, WIDTH)
    if WIDTH < WORDS:
        packed_1, scale_1 = _load_words(blocks, scales, rows, WIDTH, WORDS, WIDTH)
    if 2 * WIDTH < WORDS:
        packed_2, scale_2 = _load_words(blocks, scales, rows, 2 * WIDTH, WORDS, WIDTH)
    if 3 * WIDTH < WORDS:
        packed_3, scale_3 = _load_words(blocks, scales, rows, 3 * WIDTH, WORDS, WIDTH)
    tl.static_assert(WORDS <= 4 * WIDTH)
    if OFFLOADED:  # noqa: SIM102 - decided when it is compiled, the next when it runs
        if new_slot >= 0:
            _store_words(packed_0, scale_0, slot_blocks, slot_scales, rows, stored, 0, WORDS, WIDTH)
            if WIDTH < WORDS:
                _store_words(packed_1, scale_1, slot_blocks, slot_scales, rows, stored, WIDTH, WORDS, WIDTH)
            if 2 * WIDTH < WORDS:
                _store_words(packed_2, scale_2, slot_blocks, slot_scales, rows, stored, 2 * WIDTH, WORDS, WIDTH)
            if 3 * WIDTH < WORDS:
                _store_words(packed_3, scale_3, slot_blocks, slot_scales, rows, stored, 3 * WIDTH, WORDS, WIDTH)
    total = _multiply(packed_0, scale_0, x, 0, WORDS, PAIRS, PTX)
    if WIDTH < WORDS:
        total += _multiply(packed_1, scale_1, x, WIDTH, WORDS, PAIRS, PTX)
    if 2 * WIDTH < WORDS:
        total += _multiply(packed_2, scale_2, x, 2 * WIDTH, WORDS, PAIRS, PTX)
    if 3 * WIDTH < WORDS:
        total += _multiply(packed_3, scale_3, x, 3 * WIDTH, WORDS, PAIRS, PTX)
    return tl.sum(total, axis=1)


@triton.jit
def input_factors(largest, PAIRS: tl.constexpr):
    """Return the factor of inputs whose largest magnitude is `largest`, and that of the sums of their products."""
    if PAIRS:
        # The power of two that gives the largest input the exponent 14.
        field = tl.minimum(268 - (largest.to(tl.int32, bitcast=True) >> 23), 254)
        factor = (field << 23).to(tl.float32, bitcast=True)
        sum_factor = ((268 - field) << 23).to(tl.float32, bitcast=True)
    else:
        factor, sum_factor = INPUT_FACTOR, SUM_FACTOR
    return factor, sum_factor


@triton.jit
def store_inputs(inputs, value, k, K: tl.constexpr, PAIRS: tl.constexpr):
    """Store `value`, elements k of K, which have been multiplied by the factor of inputs.

    Element 8w + j goes to inputs[j, w] of [8, K / 8] float32. With PAIRS, elements 8w + p and 8w + 4 + p go to
    inputs[p, w] of [4, K / 8, 2] float16.
    """
    j, word = k % 8, k // 8
    if PAIRS:
        tl.store(inputs + ((j % 4) * (K // 8) + word) * 2 + j // 4, value.to(tl.float16), mask=k < K)
    else:
        tl.store(inputs + j * (K // 8) + word, value, mask=k < K)


@kernel(do_not_specialize=["replaceable"])
def pack_kernel(
    normed, experts, inputs, sum_factor, held, used_at, counts, chosen_slots, replaceable,
    E: tl.constexpr, A: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr,
    E_WIDTH: tl.constexpr, A_WIDTH: tl.constexpr, PAIRS: tl.constexpr, OFFLOADED: tl.constexpr,
):
    """Store normed [K] as inputs for gate_up, and in sum_factor [1] what its sums are to be multiplied by.

    With OFFLOADED also look up the chosen experts [A] int64.
    """
    k = tl.arange(0, WIDTH)
    value = tl.load(normed + k, mask=k < K, other=0.0)
    factor, undone = input_factors(tl.max(tl.abs(value)), PAIRS)
    tl.store(sum_factor, undone)
    store_inputs(inputs, value * factor, k, K, PAIRS)
    if OFFLOADED:
        a = tl.arange(0, A_WIDTH)
        chosen = tl.load(experts + a, mask=a < A, other=0).to(tl.int32)
        look_up_experts(chosen, held, used_at, counts, chosen_slots, replaceable, E, A, E_WIDTH, A_WIDTH)


@kernel
def gate_up_kernel(
    inputs, sum_factor, experts, chosen_slots, host_offsets, blocks, scales, bias, hidden, limit, alpha, hidden_factor,
    F: tl.constexpr, WORDS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, PAIRS: tl.constexpr,
    PTX: tl.constexpr, PDL: tl.constexpr, OFFLOADED: tl.constexpr,
):
    """Multiply ROWS gate and up rows of expert experts[program 1], and apply SwiGLU -> hidden, times `hidden_factor`.

    `inputs` and `sum_factor` are pack_kernel's, and `hidden` is arranged as they are, for each of the A experts.
    `blocks` and `scales` are slots of experts. With OFFLOADED `chosen_slots` of look_up_experts tell where experts are,
    and to which slots they are to be written; host memory is host_offsets [2] after the slots, see PlacedExperts.
    """
    launch_next(PDL)
    wait_for_previous(PDL)
    choice = tl.program_id(1)
    expert = tl.load(experts + choice)
    units: tl.constexpr = 2 * F * (WORDS // 4)
    own_blocks, own_scales, new_slot = expert_address(
        blocks, scales, chosen_slots, host_offsets, expert, choice, tl.num_programs(1), units, OFFLOADED
    )
    # Rows beyond the end are computed again and not stored.
    own_row = tl.program_id(0) * (2 * ROWS) + tl.arange(0, 2 * ROWS)
    row = tl.minimum(own_row, 2 * F - 1)
    product = _mxfp4_rows(
        own_blocks, own_scales, new_slot, blocks + new_slot * units * 4, scales + new_slot * units,
        inputs, row.to(tl.int64), own_row < 2 * F, WORDS, WIDTH, PAIRS, PTX, OFFLOADED,
    )
    product = product * tl.load(sum_factor) + tl.load(bias + expert * (2 * F) + row).to(tl.float32)
    gate, up = tl.split(tl.reshape(product, (ROWS, 2)))
    # Unlike tl.clamp, this keeps NaN.
    gate = tl.where(gate > limit, limit, gate)
    up = tl.where(up > limit, limit, tl.where(up < -limit, -limit, up))
    activated = (up + 1.0) * gate / (1.0 + tl.exp(-alpha * gate)) * hidden_factor
    store_inputs(hidden + choice * F, activated, tl.program_id(0) * ROWS + tl.arange(0, ROWS), F, PAIRS)


@kernel
def down_kernel(
    x, hidden, experts, expert_weights, chosen_slots, host_offsets, blocks, scales, bias, held, parts, arrived, mixed,
    sum_factor,
    C: tl.constexpr, A: tl.constexpr, WORDS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, PAIRS: tl.constexpr,
    PTX: tl.constexpr, PDL: tl.constexpr, OFFLOADED: tl.constexpr,
):
    """Multiply ROWS rows of expert experts[program 1]; add the weighted sum of all A of them to x [C] -> mixed [C].

    Each program stores its product in parts [A, C], and the last of the A to arrive adds them up, always in the same
    order. arrived [programs 0] int32 must be 0 before and is 0 afterwards. `hidden` is gate_up_kernel's, and its
    products are to be multiplied by `sum_factor`. Weights are found as there. Experts that are written to slots become
    those that are `held`: only now, so that a slot is empty if the kernels were not all launched.
    """
    launch_next(PDL)
    wait_for_previous(PDL)
    block, choice = tl.program_id(0), tl.program_id(1)
    expert = tl.load(experts + choice)
    units: tl.constexpr = C * (WORDS // 4)
    own_blocks, own_scales, new_slot = expert_address(
        blocks, scales, chosen_slots, host_offsets, expert, choice, A, units, OFFLOADED
    )
    own_row = block * ROWS + tl.arange(0, ROWS)
    row, row_mask = tl.minimum(own_row, C - 1), own_row < C
    inputs = hidden + choice * (WORDS * (4 if PAIRS else 8))
    product = _mxfp4_rows(
        own_blocks, own_scales, new_slot, blocks + new_slot * units * 4, scales + new_slot * units,
        inputs, row.to(tl.int64), row_mask, WORDS, WIDTH, PAIRS, PTX, OFFLOADED,
    ) * sum_factor
    if OFFLOADED:
        tl.store(held + new_slot, expert.to(tl.int32), mask=(block == 0) & (new_slot >= 0))
    product += tl.load(bias + expert * C + row).to(tl.float32)
    tl.store(parts + choice * C + row, product * tl.load(expert_weights + choice), mask=row_mask)
    tl.debug_barrier()  # all threads have stored before one of them says so
    if tl.atomic_add(arrived + block, 1, sem="acq_rel") == A - 1:
        total = tl.load(x + row)
        for each in tl.static_range(A):
            # Not from the cache of this multiprocessor, which does not see what others store.
            total += tl.load(parts + each * C + row, cache_modifier=".cg")
        tl.store(mixed + row, total, mask=row_mask)
        tl.store(arrived + block, 0)
