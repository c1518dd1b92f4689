"""Block sizes and warps of the GPU's kernels for each architecture."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class PrefillTuning:
    """Block sizes and warps of the kernels for several tokens.

    A program of attention has `queries` queries and takes `keys` keys at once. A program of experts has `rows` rows and
    takes `width` bytes of each at once. Its number of tokens is the smallest of `tokens` that is at least the mean per
    expert. With `upcast` products are of float32.
    """

    queries: int = 64
    keys: int = 64
    attention_warps: int = 4
    rows: int = 64
    width: int = 32
    tokens: tuple[int, ...] = (16, 64, 128)
    warps: int = 8
    upcast: bool = False


@dataclass(frozen=True, slots=True)
class Tuning:
    """Block sizes and warps of the kernels for one token, and the number of splits of a long attention.

    A program of a dense product has `rows` rows, of the router `router_rows`, and of an expert `packed_rows`.
    With `pdl` a kernel starts before the one before it has ended (programmatic dependent launch).
    """

    rows: int = 4
    router_rows: int = 1
    packed_rows: int = 4
    warps: int = 4
    keys: int = 64
    splits: int = 32
    pdl: int = 0
    prefill: PrefillTuning = PrefillTuning()


# 8 packed rows take 4 % fewer instructions per weight than 4, but 80 % more registers.
TUNING = Tuning()
# Without tensor cores the sums are in registers, and 32 bytes of a row spill with Triton 3.6.
UPCAST = PrefillTuning(queries=16, keys=32, rows=32, width=16, tokens=(16, 32), upcast=True)
# On 9.0 one warpgroup multiplies 64 rows. With two warpgroups the sums go through shared memory in every round, with 73
# barriers instead of 9. On 8.x and 12.0 four warps spill with 128 tokens. On 10.0 they need all 255 registers with
# Triton 3.6.
_TUNINGS = {
    (7, 5): replace(TUNING, prefill=UPCAST),
    (9, 0): replace(TUNING, prefill=PrefillTuning(warps=4)),
}
# In Triton's interpreter each program is expensive, and its width costs little.
_INTERPRETED = Tuning(
    rows=64, router_rows=64, packed_rows=64, keys=16, splits=4,
    prefill=PrefillTuning(queries=64, keys=64, rows=128, width=64, tokens=(64,), upcast=True),
)  # fmt: skip


def tuning_for(capability: tuple[int, int] | None) -> Tuning:
    """Return the tuning for a compute capability. None is Triton's interpreter."""
    if capability is None:
        return _INTERPRETED
    return replace(_TUNINGS.get(capability, TUNING), pdl=int(capability >= (9, 0)))
