"""The PTX within a kernel computes what it should. A few of its instructions are interpreted here: no GPU is needed."""

import re
from collections.abc import Callable

import pytest
import torch

pytest.importorskip("triton")

from gptoss_cli.engine.kernels import reference, triton_prefill

_WORD = 0xFFFFFFFF


def _halves(word: int) -> torch.Tensor:
    return torch.tensor([word & 0xFFFF, word >> 16], dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


def _word(halves: torch.Tensor) -> int:
    low, high = (int(half) & 0xFFFF for half in halves.view(torch.int16))
    return low | high << 16


def _fused(a: int, b: int, c: int) -> int:
    exact = _halves(a).double() * _halves(b).double() + _halves(c).double()
    return _word(exact.to(torch.bfloat16))


def _permuted(a: int, b: int, selector: int) -> int:
    both = [*a.to_bytes(4, "little"), *b.to_bytes(4, "little")]
    return int.from_bytes(bytes(both[selector >> 4 * place & 7] for place in range(4)), "little")


_OPERATIONS: dict[str, Callable[..., int]] = {
    "mov.b32": lambda a: a,
    "shl.b32": lambda a, count: a << count & _WORD,
    "and.b32": lambda a, b: a & b,
    "or.b32": lambda a, b: a | b,
    "prmt.b32": _permuted,
    "fma.rn.bf16x2": _fused,
}


def _run(source: str, registers: dict[str, int]) -> dict[str, int]:
    """Run straight PTX on `registers`, by name -> all registers."""
    for line in re.findall(r"^([a-z][^{};]*);$", source, re.M):
        operation, _, operands = line.partition(" ")
        target, *sources = (operand.strip() for operand in operands.split(","))
        values = (registers[name] if name in registers else int(name, 0) for name in sources)
        registers[target] = _OPERATIONS[operation](*values)
    return registers


def _factor_bits(scale: int) -> int:
    """The bits of a scale's factor in bfloat16, as the kernel makes them."""
    return 0x40 if scale == 0 else 0x7FC0 if scale == 255 else scale << 7


@pytest.mark.parametrize("scale", [0, 1, 127, 254, 255])
def test_bytes_are_unpacked_to_the_elements_of_the_reference(scale: int) -> None:
    factor = _factor_bits(scale) * 0x10001
    expected = reference.dequantize(
        torch.arange(256, dtype=torch.uint8).view(16, 16), torch.full((16,), scale, dtype=torch.uint8), torch.float32
    ).view(256, 2)
    for first in range(0, 256, 4):
        packed = int.from_bytes(bytes(range(first, first + 4)), "little")
        done = _run(triton_prefill._UNPACK.value, {"$4": packed, "$5": factor, "$6": factor})
        low, high = (torch.cat([_halves(done[name]) for name in names]) for names in (("$0", "$1"), ("$2", "$3")))
        right = expected[first : first + 4].bfloat16()
        assert torch.equal(torch.stack((low, high), 1).nan_to_num(9.0), right.nan_to_num(9.0))


def test_each_pair_of_bytes_has_the_factors_of_its_own() -> None:
    one, four = _factor_bits(127), _factor_bits(129)
    done = _run(triton_prefill._UNPACK.value, {"$4": 0x22222222, "$5": one | four << 16, "$6": four | one << 16})
    assert [_halves(done[name]).tolist() for name in ("$0", "$1", "$2", "$3")] == [[1, 4], [4, 1], [1, 4], [4, 1]]
