"""The GPU kernels that draw an id from logits, for Triton 3.6 to 3.9. cuda_decode.py launches them.

The first reduces blocks of logits in parallel, the second finds the block of the draw and searches only that one. As in
the sampler, exponentials are float32 and their sums float64.
"""

import triton
import triton.language as tl

from gptoss_cli.engine.kernels.compilation import kernel
from gptoss_cli.engine.kernels.triton_experts import launch_next, wait_for_previous

# fmt: off


@triton.jit
def _load_logits(logits, excluded, index, rows):
    """Return logits at `index`, -inf for ids that are excluded, and how many are NaN or infinite."""
    value = tl.load(logits + index, mask=index < rows, other=0.0)
    broken = tl.sum((~(tl.abs(value) < float("inf"))).to(tl.int32))
    out = tl.load(excluded + index, mask=index < rows, other=1) != 0
    return tl.where(out, -float("inf"), value), broken


@triton.jit
def _exponentials(value, largest, temperature):
    """Return exp((value - largest) / temperature) as float64, 0 for -inf."""
    return tl.where(value == -float("inf"), 0.0, tl.exp((value - largest) / temperature)).to(tl.float64)


@kernel(do_not_specialize=["rows"])
def reduce_logits_kernel(
    logits, excluded, maxima, sums, first, temperature, rows,
    WIDTH: tl.constexpr, PDL: tl.constexpr,
):
    """Reduce WIDTH logits [rows], without those of `excluded` ids -> maxima, sums and first, one of each per program.

    They are the largest logit, NaN if any is not finite, the sum of exponentials relative to it, and its first index.
    """
    launch_next(PDL)
    wait_for_previous(PDL)
    program = tl.program_id(0)
    value, broken = _load_logits(logits, excluded, program * WIDTH + tl.arange(0, WIDTH), rows)
    largest, index = tl.max(value, axis=0, return_indices=True)
    tl.store(first + program, program * WIDTH + index)
    tl.store(sums + program, tl.sum(_exponentials(value, largest, temperature), axis=0))
    tl.store(maxima + program, tl.where(broken > 0, float("nan"), largest))


@kernel(do_not_specialize=["rows", "blocks"])
def draw_kernel(
    logits, excluded, maxima, sums, first, uniform, drawn, temperature, rows, blocks,
    WIDTH: tl.constexpr, BLOCKS_WIDTH: tl.constexpr, PDL: tl.constexpr,
):
    """Draw by the random number uniform [1] float64 from what reduce_logits_kernel found -> drawn [1] int64.

    It is the first id at which the cumulative sum exceeds `uniform` times the sum; at temperature 0, the first of the
    most likely ones. It is -1 if any logit is NaN or infinite.
    """
    launch_next(PDL)
    wait_for_previous(PDL)
    block = tl.arange(0, BLOCKS_WIDTH)
    block_max = tl.load(maxima + block, mask=block < blocks, other=-float("inf"))
    broken = tl.sum((block_max != block_max).to(tl.int32))
    largest = tl.max(block_max, axis=0)
    scale = _exponentials(block_max, largest, temperature)
    cumulative = tl.cumsum(scale * tl.load(sums + block, mask=block < blocks, other=0.0), axis=0)
    target = tl.load(uniform) * tl.max(cumulative, axis=0)
    chosen = tl.minimum(tl.sum((cumulative <= target).to(tl.int32), axis=0), blocks - 1)
    before = tl.sum(tl.where(block == chosen - 1, cumulative, 0.0), axis=0)
    own_scale = tl.sum(tl.where(block == chosen, scale, 0.0), axis=0)
    own_max = tl.sum(tl.where(block == chosen, block_max, 0.0), axis=0)
    within = tl.arange(0, WIDTH)
    value, _ = _load_logits(logits, excluded, chosen * WIDTH + within, rows)
    exponentials = _exponentials(value, own_max, temperature)
    passed = (tl.cumsum(exponentials, axis=0) * own_scale <= target - before).to(tl.int32)
    # The sums above were in another order, so that the last ones may not reach the target.
    last = tl.max(tl.where(exponentials > 0.0, within, 0), axis=0)
    by_chance = chosen * WIDTH + tl.minimum(tl.sum(passed, axis=0), last)
    most_likely = tl.load(first + block, mask=(block < blocks) & (block_max == largest), other=2**31 - 1)
    id_ = tl.where(temperature == 0.0, tl.min(most_likely, axis=0), by_chance)
    tl.store(drawn, tl.where(broken > 0, -1, id_).to(tl.int64))
