"""Packing to MXFP4: without loss for what was MXFP4 once, else to the nearest number with the scale of OCP MX v1.0."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gptoss_cli.engine import mxfp4
from gptoss_cli.engine.kernels.reference import dequantize
from gptoss_cli.engine.mxfp4 import PackedMatrix

_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_SIGN = 0x8000


def pack(columns: NDArray[np.uint16]) -> PackedMatrix:
    """Pack a matrix [G * 32, rows]."""
    groups = len(columns) // 32
    return mxfp4.pack(iter(columns.reshape(groups, 32, -1)), groups, columns.shape[1])


def block(bits: Iterable[int]) -> NDArray[np.uint16]:
    """Return one block [32, 1] that begins with `bits`, the rest of it 0."""
    given = list(bits)
    return np.array([*given, *[0] * (32 - len(given))], np.uint16)[:, None]


def values_of(packed: PackedMatrix) -> NDArray[np.float64]:
    """Return the values [G * 32, rows]."""
    blocks, scales = torch.from_numpy(packed.blocks), torch.from_numpy(packed.scales)
    # float32 has every value: bfloat16 has so too, but torch may flush its subnormal numbers.
    return dequantize(blocks, scales, torch.float32).numpy().T.astype(np.float64)


def floats(bits: NDArray[np.uint16]) -> NDArray[np.float64]:
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def nearest(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round one block by the definition, in the arithmetic of Python."""
    largest = max(map(abs, values.tolist()))
    scale = 2.0 ** max(math.floor(math.log2(largest)) - 2, -127) if largest else 1.0
    rounded = []
    for value in values.tolist():
        # The even mantissas are those with an even index.
        index = min(range(8), key=lambda i: (abs(abs(value) / scale - _VALUES[i]), i % 2))
        rounded.append(math.copysign(_VALUES[index] * scale, value))
    return np.array(rounded)


@pytest.mark.parametrize("base_scale", [3, 100, 120, 127, 200, 251])
def test_what_was_mxfp4_is_packed_without_loss(base_scale: int) -> None:
    random = np.random.default_rng(base_scale)
    blocks = random.integers(0, 256, (70, 5, 16), dtype=np.uint8)
    blocks[:20] &= 0x33  # small numbers only: another scale fits them as well
    scales = random.integers(base_scale, base_scale + 2, (70, 5), dtype=np.uint8)
    original = dequantize(torch.from_numpy(blocks), torch.from_numpy(scales), torch.bfloat16)
    packed = pack(original.view(torch.int16).numpy().view(np.uint16).T.copy())
    assert np.array_equal(values_of(packed), original.float().numpy().T)
    assert (packed.rounded_blocks, packed.largest_error) == (0, 0.0)


def test_signed_zeros_and_a_block_of_zeros_stay() -> None:
    for more in ([], [0x3F80], [0x0080]):
        packed = pack(block([_SIGN, 0, *more]))
        assert np.array_equal(np.signbit(values_of(packed)[:2, 0]), [True, False])
        assert np.array_equal(values_of(packed), floats(block([0, 0, *more])))
        assert packed.rounded_blocks == 0


@given(st.lists(st.integers(0, 0xFFFF).filter(lambda bits: bits & 0x7F80 != 0x7F80), min_size=32, max_size=32))
@settings(max_examples=60, deadline=None)
def test_any_block_is_rounded_to_the_nearest(bits: list[int]) -> None:
    _check_block(block(bits))


@given(st.integers(0, 6), st.lists(st.integers(0, 0x03FF), min_size=32, max_size=32))
@settings(max_examples=60, deadline=None)
def test_subnormal_numbers_are_rounded_to_the_nearest(shift: int, bits: list[int]) -> None:
    _check_block(block(each >> shift for each in bits))


@given(st.integers(1, 250), st.lists(st.integers(0, 0x01FF), min_size=31, max_size=31))
@settings(max_examples=60, deadline=None)
def test_close_values_and_ties_are_rounded_to_the_nearest(exponent: int, offsets: list[int]) -> None:
    top = exponent << 7 | 0x7F
    _check_block(block([top, *(max(0, top - 4 * offset) for offset in offsets)]))


def _check_block(bits: NDArray[np.uint16]) -> None:
    packed, values = pack(bits), floats(bits)[:, 0]
    expected = nearest(values)
    assert np.array_equal(values_of(packed)[:, 0], expected)
    assert packed.rounded_blocks == int(not np.array_equal(expected, values))
    largest = np.abs(values).max()
    if largest > 2.0**-120:
        assert packed.largest_error == pytest.approx(np.abs(expected - values).max() / largest, rel=1e-6)


def test_the_error_is_at_most_a_quarter_of_the_largest_value() -> None:
    bits = torch.randn(320, 64).bfloat16().view(torch.int16).numpy().view(np.uint16)
    packed = pack(bits)
    errors = np.abs(values_of(packed) - floats(bits)).reshape(10, 32, 64).max(axis=1)
    largest = np.abs(floats(bits)).reshape(10, 32, 64).max(axis=1)
    assert (errors / largest).max() == pytest.approx(packed.largest_error)
    assert 0.1 < packed.largest_error < 0.25
    assert packed.rounded_blocks == 640


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0xFFFF])
def test_infinity_and_nan_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="infinity or NaN"):
        pack(block([1, bits]))
