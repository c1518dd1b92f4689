"""What the GPU's kernels compile to, for every architecture they are for. Needs no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from gptoss_cli.engine.kernels.cuda import tuning_for

COMPILER = Path(__file__).with_name("compile_kernels.py")
CAPABILITIES = [75, 80, 86, 89, 90, 100, 120]
LEAST_SHARED_BYTES = 64 << 10  # of a multiprocessor of compute capability 7.5
MOST_INSTRUCTIONS_A_WEIGHT = 11  # of all the code, of which the loops are the greater part


def _compiled(capability: int, *kernels: str) -> dict[str, dict[str, int]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(COMPILER), str(capability), *kernels]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    told: dict[str, dict[str, int]] = json.loads(done.stdout)
    return told


def _check(capability: int, told: dict[str, dict[str, int]]) -> None:
    tuning = tuning_for((capability // 10, capability % 10))
    # What a thread multiplies in a round of the loops over words of 8; gate and up are two.
    a_word = tuning.packed_rows * 8 / (32 * tuning.warps)
    weights = {"gate_up_kernel": 2 * tuning.packed_width * a_word, "down_kernel": tuning.down_width * a_word}
    for name, used in told.items():
        assert used["spilled"] == 0, (name, used)
        assert used["shared"] <= LEAST_SHARED_BYTES, (name, used)
        if name in weights:
            assert used["instructions"] <= MOST_INSTRUCTIONS_A_WEIGHT * weights[name], (name, used)


def test_the_heaviest_kernels_compile_without_spills() -> None:
    told = _compiled(90, "attend_kernel", "gate_up_kernel", "down_kernel", "attend_several_kernel")
    assert len(told) == 5
    _check(90, told)


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_kernel_compiles_for_every_architecture_without_spills(capability: int) -> None:
    told = _compiled(capability)
    assert len(told) == (16 if capability == 75 else 23)
    _check(capability, told)
