"""Block sizes and warps of the GPU's kernels for each architecture, and the variable that overrides them."""

import os
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import torch

from gptoss_cli.errors import UsageError

# Such as "packed_rows=8, prefill.warps=4, prefill.tokens=16/64".
VARIABLE: Final = "GPTOSS_GPU_TUNING"
_LARGEST = 65_536
_MOST_STAGES = 8


@dataclass(frozen=True, slots=True)
class PrefillTuning:
    """Block sizes and warps of the kernels for several tokens.

    A program of attention has `queries` queries and takes `keys` keys at once. A program of experts has `rows` rows and
    takes `width` bytes of each at once. Its number of tokens is the smallest of `tokens` that is at least the mean per
    expert. Of a row's inputs `stages` rounds are on their way at once. With `upcast` products are of float32.
    """

    queries: int = 64
    keys: int = 64
    attention_warps: int = 4
    rows: int = 64
    width: int = 32
    tokens: tuple[int, ...] = (16, 64, 128)
    warps: int = 8
    stages: int = 3
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
# Compared by their machine code for gate_up, with tiles of 64 pairs of rows and 128 tokens, per round of 64 inputs:
# 8.x: with 3 stages a program has 158 registers, so one fits on a multiprocessor; with 2 it has 128, and two fit: one
#      multiplies while the other unpacks. 4 warps need 255 registers, and 128 pairs of rows spill.
# 9.0: one warpgroup multiplies 64 rows. With two of them the sums go through shared memory in every round, with 65
#      barriers instead of 5. 128 pairs with 8 warps halve the traffic of inputs, but only one program fits.
# 10.0: 4 warps issue 568 instructions a scheduler instead of 716, and wait at 6 barriers instead of 12.
# 12.0: 4 warps spill; 8 have 128 registers, so two programs fit.
_TUNINGS = {
    (7, 5): replace(TUNING, prefill=UPCAST),
    **{each: replace(TUNING, prefill=PrefillTuning(stages=2)) for each in ((8, 0), (8, 6), (8, 7), (8, 9))},
    (9, 0): replace(TUNING, prefill=PrefillTuning(warps=4)),
    (10, 0): replace(TUNING, prefill=PrefillTuning(warps=4)),
    (10, 3): replace(TUNING, prefill=PrefillTuning(warps=4)),
}
# AMD's consumer GPUs spill with larger blocks: each of their lanes has 256 registers.
_RDNA = Tuning(packed_rows=2, keys=16, prefill=PrefillTuning(queries=32, keys=16, rows=32, tokens=(16, 64)))
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


def tuning_for_amd(architecture: str) -> Tuning:
    """Return the tuning for an architecture of AMD, such as gfx942 (64 lanes in a warp) or gfx1100 (32 lanes)."""
    return TUNING if architecture.startswith("gfx9") else _RDNA


def tuning_of(device: torch.device | str) -> Tuning:
    """Return the tuning for a device, with what the environment overrides. Raises UsageError if that is not valid."""
    if torch.device(device).type == "cpu":
        tuning = tuning_for(None)
    elif torch.version.hip:
        tuning = tuning_for_amd(torch.cuda.get_device_properties(device).gcnArchName)
    else:
        tuning = tuning_for(torch.cuda.get_device_capability(device))
    return overridden(tuning, os.environ.get(VARIABLE, ""))


def overridden(tuning: Tuning, text: str) -> Tuning:
    """Return `tuning` with the values of "NAME=NUMBER, prefill.NAME=NUMBER". Raises UsageError."""
    own, prefill = dict[str, Any](), dict[str, Any]()
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (word.strip() for word in part.partition("="))
        inner = name.removeprefix("prefill.")
        known = PrefillTuning if inner != name else Tuning
        names = [field.name for field in fields(known) if field.name not in ("prefill", "upcast")]
        if not equals or inner not in names:
            listed = ", ".join(f"prefill.{each}" if known is PrefillTuning else each for each in names)
            raise UsageError(f"{VARIABLE} has {part!r}. It needs NAME=NUMBER, with one of {listed}")
        (prefill if known is PrefillTuning else own)[inner] = _value(inner, value)
    return replace(tuning, **own, prefill=replace(tuning.prefill, **prefill))


def _value(name: str, text: str) -> int | tuple[int, ...]:
    """Return a power of two, as Triton's blocks need, or for `tokens` several in ascending order.

    `pdl` may be 0 or 1, and `stages` any number up to eight.
    """
    if name == "stages" and text.strip() in map(str, range(1, _MOST_STAGES + 1)):
        return int(text)
    least = {"tokens": 16, "keys": 16, "queries": 16, "pdl": 0}.get(name, 1)
    numbers = tuple(int(word) if word.strip().isdecimal() else -1 for word in text.split("/"))
    fits = all(least <= number <= _LARGEST and number & (number - 1) == 0 for number in numbers)
    if not fits or list(numbers) != sorted(numbers) or (name != "tokens" and len(numbers) > 1):
        example = "16/64/128" if name == "tokens" else "a power of two"
        raise UsageError(f"{VARIABLE} has {name}={text}. It should be {example}, at least {least}")
    return numbers if name == "tokens" else numbers[0]
