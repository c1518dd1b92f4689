"""The GPU kernels compile to good machine code for every architecture: no spills, few barriers and instructions.

No GPU is needed. To test another Triton, put the folder that it is installed in first in PYTHONPATH.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

import triton

import gptoss_cli
from gptoss_cli.engine.kernels.tuning import UPCAST, tuning_for

_ROOT = str(Path(gptoss_cli.__file__).parents[1])
COMPILER = Path(__file__).with_name("compile_kernels.py")
CAPABILITIES = [75, 80, 86, 89, 90, 100, 120]
LEAST_SHARED_BYTES = 64 << 10  # of a multiprocessor of compute capability 7.5
NEWEST = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9)
# Per round of the grouped products, which put the halves of two matrices into shared memory for the tensor cores.
MOST_BARRIERS = {75: 8, 80: 8, 86: 8, 89: 8, 90: 9, 100: 10 if NEWEST else 23, 120: 8}
# Instructions per loaded weight. The grouped products use each weight for up to 128 tokens.
MOST_PACKED, MOST_DENSE, MOST_UPCAST = 6.0, 7.5, 75.0
MOST_GROUPED = {80: 26.0, 86: 26.0, 89: 26.0, 90: 12.5, 100: 19.0, 120: 28.5}
PACKED, DENSE = {"gate_up_kernel": 2, "down_kernel": 1}, {"qkv_kernel": 3, "unembed_kernel": 1, "output_kernel": 1}
Compiled = dict[str, dict[str, Any]]


def _compiled(target: int | str, *kernels: str) -> Compiled:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(COMPILER), str(target), *kernels]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    compiled: Compiled = json.loads(done.stdout)
    return compiled


def _instructions_per_weight(used: dict[str, Any], weights: int) -> float:
    """Return the instructions of all threads in a round of the longest loop, divided by the weights that it loads."""
    threads: int = 32 * used["warps"]
    return max(int(loop["instructions"]) for loop in used["loops"]) * threads / weights


def _check_packed(name: str, used: dict[str, Any], capability: int) -> None:
    tuning = tuning_for(divmod(capability, 10))
    words = tuning.packed_rows * (tuning.down_width if name == "down_kernel" else tuning.packed_width)
    assert len(used["loops"]) == PACKED[name]
    assert used["barriers"] == 0
    assert _instructions_per_weight(used, words * 8) <= MOST_PACKED
    # Words and inputs have 4 bytes; there are 8 vectors of inputs, each as wide as a row of words.
    wide = (words + 8 * words // tuning.packed_rows) * 4 // (32 * used["warps"] * 16)
    assert all(loop["wide_loads"] >= wide for loop in used["loops"])


def _check_dense(name: str, used: dict[str, Any], capability: int) -> None:
    tuning = tuning_for(divmod(capability, 10))
    weights = tuning.rows * tuning.width
    assert len(used["loops"]) == DENSE[name]
    # 7.5 has no instructions for bfloat16.
    assert _instructions_per_weight(used, weights) <= (MOST_DENSE if capability >= 80 else MOST_DENSE + 1.5)
    wide = (2 * weights + 4 * tuning.width) // (32 * used["warps"] * 16)
    assert all(loop["wide_loads"] >= wide and loop["barriers"] <= 2 for loop in used["loops"])


def _check_grouped(name: str, used: dict[str, Any], capability: int) -> None:
    prefill = UPCAST if "upcast" in name else tuning_for(divmod(capability, 10)).prefill
    weights = prefill.rows * prefill.width * 2 * (2 if "gate_up" in name else 1)
    assert len(used["loops"]) == 1
    assert used["loops"][0]["barriers"] <= MOST_BARRIERS[capability]
    assert _instructions_per_weight(used, weights) <= (MOST_UPCAST if prefill.upcast else MOST_GROUPED[capability])


def _check(capability: int, compiled: Compiled) -> None:
    for name, used in compiled.items():
        assert used["spilled"] == 0, (name, used)
        assert used["shared"] <= LEAST_SHARED_BYTES, (name, used)
        if name in PACKED:
            _check_packed(name, used, capability)
        elif name in DENSE:
            _check_dense(name, used, capability)
        elif name.startswith("grouped"):
            _check_grouped(name, used, capability)


def test_the_heaviest_kernels_compile_to_good_code() -> None:
    grouped = "grouped_gate_up_kernel of 128", "grouped_down_kernel of 128"
    compiled = _compiled(90, "attend_kernel", "gate_up_kernel", "down_kernel", "qkv_kernel", *grouped)
    assert len(compiled) == 6
    _check(90, compiled)


@pytest.mark.parametrize("capability", [75, 120])
def test_packed_products_have_no_barriers_on_the_oldest_and_the_newest(capability: int) -> None:
    compiled = _compiled(capability, *PACKED)
    assert compiled.keys() == PACKED.keys()
    _check(capability, compiled)


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_kernel_compiles_to_good_code_for_every_architecture(capability: int) -> None:
    compiled = _compiled(capability)
    assert len(compiled) == (16 if capability == 75 else 23)
    _check(capability, compiled)


# A multiprocessor's memory that its programs share.
AMD_SHARED_BYTES = 64 << 10
ARCHITECTURES = ["gfx942", "gfx1100", "gfx1151", "gfx1201"]


def _check_amd(compiled: Compiled) -> None:
    for name, used in compiled.items():
        assert used["shared"] <= AMD_SHARED_BYTES, (name, used)
        if name in PACKED or name in DENSE:
            assert used["spilled"] == 0, (name, used)


@pytest.mark.slow
@pytest.mark.skipif(not NEWEST, reason="the backend of older versions needs AMD's tools")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_for_amd(architecture: str) -> None:
    compiled = _compiled(architecture)
    assert len(compiled) == (23 if architecture == "gfx942" else 21)
    _check_amd(compiled)
