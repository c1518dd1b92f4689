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
MOST_BARRIERS = {75: 8, **dict.fromkeys((80, 86, 89, 120), 4 if NEWEST else 8), 90: 8, 100: 6 if NEWEST else 26}
# Instructions per loaded weight. The grouped products use each weight for up to 128 tokens.
MOST_PACKED, MOST_UPCAST = 4.2, 75.0
# With experts in host memory: if the expert is in its slot, and if it is also written to one.
MOST_FOUND, MOST_WRITTEN = 4.25, 4.45
MOST_GROUPED = {**dict.fromkeys((80, 86, 89, 120), 15.5), 90: 10.5, 100: 12.0}
# For each product of the tensor cores on 8.x and 12.0, which all have the same size.
MOST_FOR_A_PRODUCT = 5.8 if NEWEST else 7.8
# One program of down adds up what several have stored. It looks whether it is the last.
PACKED = {"gate_up_kernel": 0, "down_kernel": 3}
# Instructions per weight, and barriers outside of loops: two sums, and inputs that change threads. qkv has the loads of
# three matrices.
DENSE = {"qkv_kernel": (9.4, 7), "unembed_kernel": (6.6, 7), "output_kernel": (4.7, 12)}
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


def _check_offloaded(used: dict[str, Any], weights: int) -> None:
    """The copy to a slot is one block of stores, which is skipped if the expert is there."""
    assert used["copying"] * 32 / weights >= 0.1
    assert (used["instructions"] - used["copying"]) * 32 / weights <= MOST_FOUND
    assert used["instructions"] * 32 / weights <= MOST_WRITTEN


def _check_prefill_attention(name: str, used: dict[str, Any], capability: int) -> None:
    """A loop without masks, and one with them for the keys at the edges; in a window only the latter."""
    edges, *inner = sorted(used["loops"], key=lambda loop: -int(loop["instructions"]))
    assert len(inner) == (0 if "window" in name else 1)
    for loop in inner:
        # Products of float32, in which masks are a small part, are not on tensor cores.
        assert loop["instructions"] <= (1 if "upcast" in name else 0.85) * edges["instructions"]
        assert loop["barriers"] <= (5 if "upcast" in name or capability == 100 else 2)


def _check_packed(name: str, used: dict[str, Any], capability: int) -> None:
    rows, words = tuning_for(divmod(capability, 10)).packed_rows, 360
    assert not used["loops"]
    assert used["barriers"] <= PACKED[name.removesuffix(" offloaded")]
    if name.endswith("offloaded"):
        _check_offloaded(used, rows * words * 8)
    else:
        assert used["instructions"] * 32 / (rows * words * 8) <= MOST_PACKED
    # Three rounds of 128 words and four vectors of inputs, of 4 bytes each.
    assert used["wide_loads"] >= 3 * 128 * (rows + 4) * 4 // (32 * 16)


def _check_dense(name: str, used: dict[str, Any], capability: int) -> None:
    rows, columns = tuning_for(divmod(capability, 10)).rows, 4096 if name == "output_kernel" else 2880
    most, barriers = DENSE[name]
    assert not used["loops"]
    assert used["barriers"] <= barriers
    assert used["instructions"] * 32 * used["warps"] / (rows * columns) <= most
    # All rounds of 1024 columns of 2 bytes.
    assert used["wide_loads"] >= -(-columns // 1024) * rows * 1024 * 2 // (32 * used["warps"] * 16)


def _check_attention(used: dict[str, Any], capability: int) -> None:
    """The loop over keys, of which a round takes 64 (32 on 7.5, without tensor cores), and that over splits."""
    over_keys, over_splits = used["loops"]
    assert over_keys["instructions"] <= (1_000 if capability == 75 else 330)
    assert over_keys["barriers"] <= (10 if capability == 75 else 9)
    assert over_keys["wide_loads"] >= (4 if capability == 75 else 8)
    assert over_splits["barriers"] <= 13


def _check_grouped(name: str, used: dict[str, Any], capability: int) -> None:
    prefill = UPCAST if "upcast" in name else tuning_for(divmod(capability, 10)).prefill
    weights = prefill.rows * prefill.width * 2 * (2 if "gate_up" in name else 1)
    assert len(used["loops"]) == 1
    assert used["loops"][0]["barriers"] <= MOST_BARRIERS[capability]
    assert _instructions_per_weight(used, weights) <= (MOST_UPCAST if prefill.upcast else MOST_GROUPED[capability])
    if capability in (80, 86, 89, 120) and "upcast" not in name and name.endswith(" of 128"):
        assert used["loops"][0]["instructions"] <= MOST_FOR_A_PRODUCT * used["loops"][0]["products"]


def _check_dependent_launch(name: str, used: dict[str, Any], capability: int) -> None:
    """A kernel waits for the one before it, and only a dense product does something before: it loads its weights."""
    if capability < 90 or name in ("pack_kernel", "embed_kernel"):
        assert used["before_wait"] is None
        return
    early = used["before_wait"]
    assert early["stores"] == 0
    assert early["barriers"] == 0
    rows = tuning_for(divmod(capability, 10)).rows
    rounds = {"router_kernel": 3, "output_kernel": 4 * rows, "qkv_kernel": 3 * rows, "unembed_kernel": 3 * rows}
    assert early["wide_loads"] >= rounds.get(name, 0)
    assert name in rounds or early["wide_loads"] == 0


def _check(capability: int, compiled: Compiled) -> None:
    for name, used in compiled.items():
        if "grouped" not in name and "prefill" not in name:
            _check_dependent_launch(name.removesuffix(" offloaded"), used, capability)
        assert used["spilled"] == 0, (name, used)
        assert used["shared"] <= LEAST_SHARED_BYTES, (name, used)
        if name.removesuffix(" offloaded") in PACKED:
            _check_packed(name, used, capability)
        elif name in DENSE:
            _check_dense(name, used, capability)
        elif name == "attend_kernel":
            _check_attention(used, capability)
        elif name.startswith("attend_prefill"):
            _check_prefill_attention(name, used, capability)
        elif name.startswith("grouped"):
            _check_grouped(name, used, capability)


def test_the_heaviest_kernels_compile_to_good_code() -> None:
    grouped = "grouped_gate_up_kernel of 128", "grouped_down_kernel of 128"
    compiled = _compiled(90, "attend_kernel", "gate_up_kernel", "down_kernel", "qkv_kernel", *grouped)
    assert len(compiled) == 6
    _check(90, compiled)


def test_packed_products_have_no_barriers_on_the_newest() -> None:
    names = [f"{name} offloaded" for name in PACKED]
    compiled = _compiled(120, *names)
    assert [*compiled] == names
    _check(120, compiled)


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_kernel_compiles_to_good_code_for_every_architecture(capability: int) -> None:
    compiled = _compiled(capability)
    assert len(compiled) == (21 if capability == 75 else 29)
    _check(capability, compiled)


# A multiprocessor's memory that its programs share.
AMD_SHARED_BYTES = 64 << 10
ARCHITECTURES = ["gfx942", "gfx1100", "gfx1151", "gfx1201"]


def _check_amd(compiled: Compiled) -> None:
    for name, used in compiled.items():
        assert used["shared"] <= AMD_SHARED_BYTES, (name, used)
        if name.removesuffix(" offloaded") in PACKED or name in DENSE:
            assert used["spilled"] == 0, (name, used)


@pytest.mark.slow
@pytest.mark.skipif(not NEWEST, reason="the backend of older versions needs AMD's tools")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_for_amd(architecture: str) -> None:
    compiled = _compiled(architecture)
    assert len(compiled) == (29 if architecture == "gfx942" else 27)
    _check_amd(compiled)
