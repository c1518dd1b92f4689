"""Pack bf16 matrices into MXFP4 blocks, with numpy alone.

OCP Microscaling Formats v1.0: 32 values share a scale 2^(s - 127), and each is an E2M1 number (sign, 2 bits of
exponent, 1 of mantissa: 0, 0.5, 1, 1.5, 2, 3, 4, 6). The scale gives the largest value of the block the exponent of 4
and 6. With it the E2M1 numbers also reach furthest down, so every block that was MXFP4 once is packed without loss,
whatever its scale was. Other values are rounded to the nearest, ties to an even mantissa; what would be 8 becomes 6.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gptoss_cli.placement.model_config import BLOCK_BYTES

# bfloat16: 1 bit of sign, 8 of exponent, 7 of mantissa.
_MANTISSA_BITS = np.int16(7)
_MAGNITUDE = np.uint16(0x7FFF)
_INFINITY = 0x7F80
_TOP_EXPONENT = np.int16(2)  # of 4 and 6
_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
# Below this a block may hold subnormal numbers that do not become 0.
_SMALLEST = 5 << 7


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """The blocks [rows, G, 16] u8 and scales [rows, G] u8 of a matrix.

    `rounded_blocks` counts those with a rounded value. `largest_error` is the largest change of a value, divided by the
    largest value of its block.
    """

    blocks: NDArray[np.uint8]
    scales: NDArray[np.uint8]
    rounded_blocks: int = 0
    largest_error: float = 0.0


def pack(slabs: Iterable[NDArray[np.uint16]], groups: int, rows: int) -> PackedMatrix:
    """Pack a matrix [groups * 32, rows] of bfloat16 bits, the transpose of the result, given as slabs [32, rows].

    Each column of a slab is a block. A slab stays in the cache of a core, and may be overwritten when the next is
    taken. Raises ValueError for infinity and NaN.
    """
    blocks = np.empty((rows, groups, BLOCK_BYTES), np.uint8)
    scales = np.empty((rows, groups), np.uint8)
    rounded_blocks, error = 0, 0.0
    for group, values in enumerate(slabs):
        magnitudes = (values & _MAGNITUDE).view(np.int16)
        largest = magnitudes.max(axis=0)
        if largest.max() >= _INFINITY:
            raise ValueError("infinity or NaN")
        scale = np.maximum((largest >> _MANTISSA_BITS) - _TOP_EXPONENT, np.int16(0))
        scale[largest == 0] = 127  # any scale would do, but 0 would make the bits of 0 those of 1.0
        codes, rounded = _encode(magnitudes, scale)
        tiny = (largest < _SMALLEST) & (largest > 0)
        if tiny.any():
            codes[:, tiny], rounded[tiny] = _encode_tiny(magnitudes[:, tiny], scale[tiny])
        scales[:, group] = scale
        codes |= ((values >> np.uint16(12)) & np.uint16(8)).astype(np.uint8)
        blocks[:, group] = (codes[0::2] | (codes[1::2] << np.uint8(4))).T
        if rounded.any():
            rounded_blocks += int(np.count_nonzero(rounded))
            error = max(error, _largest_error(magnitudes, codes & np.uint8(7), scale))
    return PackedMatrix(blocks, scales, rounded_blocks, error)


def _encode(magnitudes: NDArray[np.int16], scale: NDArray[np.int16]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the E2M1 numbers of magnitudes [32, rows], and True for each block in which one was rounded.

    The bits of a magnitude, less the exponent of the scale, count 128 per power of two from 1.0 on:

        quotient   0.25  0.5  0.75   1    1.5    2     3     4     6     8
        difference -256  -128  -64   0    64    128   192   256   320   384
        E2M1          0     1    2   2     3     4     5     6     7
    """
    difference = magnitudes - (scale << _MANTISSA_BITS)
    # From 1.0 on: one bit of mantissa stays; half of the last place is added, less a bit if that place is even.
    codes = (((difference >> np.int16(6)) & np.int16(1)) + difference + np.int16(31)) >> np.int16(6)
    np.clip(codes, 0, 5, out=codes)
    codes += difference > -256
    codes += difference >= -64
    rounded = (difference & np.int16(63)) != 0
    below = (difference < 0) & (difference != -128)
    rounded |= below & (magnitudes != 0)
    return codes.astype(np.uint8), rounded.any(axis=0)


def _encode_tiny(
    magnitudes: NDArray[np.int16], scale: NDArray[np.int16]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Do the same as `_encode` with the values themselves, so that subnormal numbers are right too."""
    quotients = _floats(magnitudes) * np.exp2(127 - scale.astype(np.float64))
    distances = np.abs(quotients[..., None] - _VALUES)
    # Of two numbers that are equally near the one with the even mantissa, which has an even code.
    nearest = np.argmin(distances + 1e-9 * (np.arange(8) % 2), axis=-1)
    return nearest.astype(np.uint8), (_VALUES[nearest] != quotients).any(axis=0)


def _largest_error(magnitudes: NDArray[np.int16], codes: NDArray[np.uint8], scale: NDArray[np.int16]) -> float:
    """Return the largest difference of a magnitude and its E2M1 number, divided by the largest of its block."""
    factors = np.exp2(np.float32(127) - scale.astype(np.float32))
    quotients = _floats(magnitudes) * factors
    largest = np.maximum(quotients.max(axis=0), np.float32(1))  # less is a block of zeros, or of next to nothing
    quotients -= _VALUES.take(codes)
    np.abs(quotients, out=quotients)
    return float((quotients.max(axis=0) / largest).max())


def _floats(magnitudes: NDArray[np.int16]) -> NDArray[np.float32]:
    return (magnitudes.astype(np.uint32) << np.uint32(16)).view(np.float32)
