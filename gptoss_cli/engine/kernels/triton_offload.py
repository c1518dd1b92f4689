"""The GPU kernels and functions for weights in host memory, for Triton 3.6 to 3.9. See expert_offload.py."""

import triton
import triton.language as tl

from gptoss_cli.engine.kernels.compilation import kernel

# fmt: off

# Later than every use.
_NEVER = tl.constexpr(2**62)


@triton.jit
def look_up_experts(
    chosen, held, used_at, counts, chosen_slots, replaceable,
    E: tl.constexpr, A: tl.constexpr, E_WIDTH: tl.constexpr, A_WIDTH: tl.constexpr,
):
    """Find the slots of experts chosen [A_WIDTH] int32, or choose slots for them -> chosen_slots [2, A] int64.

    Its first row is the slot to read each expert from, -1 for host memory; its second is the slot that the expert is to
    be written to, -1 for none. An expert without a slot gets the one that was used longest ago, of equally old ones
    the first, but none that is read for this token. The slot is empty until down_kernel has written it.

    held [E] int32 is the expert of each slot, and used_at [E] int64 the last token that used it, both as in LayerSlots.
    The first `replaceable` slots may get another expert. counts [2] int64 are experts chosen, and those found.
    """
    a, s = tl.arange(0, A_WIDTH), tl.arange(0, E_WIDTH)
    in_slot = tl.load(held + s, mask=s < E, other=-1)
    found = (chosen[:, None] == in_slot[None, :]) & (a < A)[:, None]
    slot = tl.max(tl.where(found, s[None, :], -1), axis=1)
    missed = ((slot < 0) & (a < A)).to(tl.int32)
    misses, rank = tl.sum(missed, axis=0), tl.cumsum(missed, axis=0) - missed
    tl.store(counts, tl.load(counts) + A)
    tl.store(counts + 1, tl.load(counts + 1) + A - misses)
    times = tl.load(used_at + s, mask=s < replaceable, other=0)
    now = tl.max(times, axis=0) + 1
    used = tl.max(found.to(tl.int32), axis=0) > 0
    # Time and slot in one number, whose minimum needs one reduction.
    ages = tl.where((s < replaceable) & (used == 0), times * E_WIDTH + s, _NEVER)
    written = tl.full((A_WIDTH,), -1, tl.int32)
    evicted = s < 0
    for n in tl.static_range(A):
        oldest = tl.min(ages, axis=0)
        victim = tl.where((n < misses) & (oldest < _NEVER), (oldest % E_WIDTH).to(tl.int32), -1)
        written = tl.where((missed > 0) & (rank == n), victim, written)
        evicted = evicted | (s == victim)
        ages = tl.where(s == victim, _NEVER, ages)
    # A thread may store what another one has to load before.
    tl.debug_barrier()
    tl.store(used_at + s, tl.zeros_like(times) + now, mask=(used | evicted) & (s < replaceable))
    tl.store(held + s, tl.full((E_WIDTH,), -1, tl.int32), mask=evicted)
    tl.store(chosen_slots + a, slot.to(tl.int64), mask=a < A)
    tl.store(chosen_slots + A + a, written.to(tl.int64), mask=a < A)


@triton.jit
def expert_address(
    blocks, scales, chosen_slots, host_offsets, expert, choice, A, UNITS: tl.constexpr, OFFLOADED: tl.constexpr
):
    """Return pointers to the blocks and scales of `expert`, number `choice` of the A chosen ones, and its new slot.

    `blocks` and `scales` are slots of UNITS blocks each. The new slot is the one that the expert is to be written to,
    -1 for none. Without OFFLOADED expert e is in slot e, and the new slot means nothing.
    """
    block_offset, scale_offset, new_slot = expert * UNITS, expert * UNITS, expert
    if OFFLOADED:
        slot, new_slot = tl.load(chosen_slots + choice), tl.load(chosen_slots + A + choice)
        block_host, scale_host = tl.load(host_offsets), tl.load(host_offsets + 1)
        block_offset = tl.where(slot < 0, block_host + block_offset, slot * UNITS)
        scale_offset = tl.where(slot < 0, scale_host + scale_offset, slot * UNITS)
    return blocks + block_offset * 4, scales + scale_offset, new_slot


@kernel(do_not_specialize=["offset"])
def embed_kernel(ids, base, offset, x, C: tl.constexpr, WIDTH: tl.constexpr):
    """Copy row ids[program] of a matrix with C columns, `offset` elements after `base`, to x [T, C] float32."""
    token = tl.program_id(0).to(tl.int64)
    row = tl.load(ids + token)
    c = tl.arange(0, WIDTH)
    value = tl.load(base + offset + row * C + c, mask=c < C, other=0.0)
    tl.store(x + token * C + c, value.to(tl.float32), mask=c < C)
