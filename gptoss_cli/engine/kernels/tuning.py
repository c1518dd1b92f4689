"""Block sizes and warps of the GPU's kernels for each architecture, and the variable that overrides them."""

import os
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import torch

from gptoss_cli.errors import UsageError

# Such as "packed_rows=8, prefill.warps=4, prefill.tokens=16/64".
VARIABLE: Final = "GPTOSS_GPU_TUNING"
_LARGEST = 65_536


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

    A program takes `rows` rows and `width` columns at once. For packed weights the widths are in words of 8 elements:
    `packed_width` for gate_up, `down_width` for down.
    """

    rows: int = 4
    width: int = 512
    packed_rows: int = 4
    packed_width: int = 128
    down_width: int = 128
    packed_warps: int = 1
    warps: int = 4
    keys: int = 32
    splits: int = 32
    prefill: PrefillTuning = PrefillTuning()


# With 64 keys attention spills. Packed products of one warp have no barriers. 8 rows take 3 % fewer instructions per
# weight than 4, but half as many programs are too few for the multiprocessors.
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
# AMD's consumer GPUs spill with larger blocks: each of their lanes has 256 registers.
_RDNA = Tuning(keys=16, prefill=PrefillTuning(queries=32, keys=32, rows=32, tokens=(16, 64)))
# In Triton's interpreter each program is expensive, and its width costs little.
_INTERPRETED = Tuning(
    rows=64, width=64, packed_rows=64, packed_width=16, down_width=16, keys=16, splits=4,
    prefill=PrefillTuning(queries=64, keys=64, rows=128, width=64, tokens=(64,), upcast=True),
)  # fmt: skip


def tuning_for(capability: tuple[int, int] | None) -> Tuning:
    """Return the tuning for a compute capability. None is Triton's interpreter."""
    return _INTERPRETED if capability is None else _TUNINGS.get(capability, TUNING)


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
    """Return a power of two, as Triton's blocks need, or for `tokens` several in ascending order."""
    least = {"tokens": 16, "keys": 16, "queries": 16}.get(name, 1)
    numbers = tuple(int(word) if word.strip().isdecimal() else 0 for word in text.split("/"))
    fits = all(least <= number <= _LARGEST and number & (number - 1) == 0 for number in numbers)
    if not fits or list(numbers) != sorted(numbers) or (name != "tokens" and len(numbers) > 1):
        example = "16/64/128" if name == "tokens" else "a power of two"
        raise UsageError(f"{VARIABLE} has {name}={text}. It should be {example}, at least {least}")
    return numbers if name == "tokens" else numbers[0]
