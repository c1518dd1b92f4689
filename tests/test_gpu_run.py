"""The run on a GPU works on a machine that has only torch and triton, in the time and space that it may take."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from tests import gpu_run

_ROOT = Path(__file__).parents[1]
# Everything that gptoss and its tests install besides torch and triton.
_MISSING = (
    "typer", "rich", "prompt_toolkit", "markdown_it", "pygments", "safetensors", "huggingface_hub", "httpx2",
    "openai_harmony", "llguidance", "platformdirs", "numpy", "pytest", "hypothesis", "transformers", "pyte",
    "jsonschema",
)  # fmt: skip
_ENGINE_NEEDS = ("safetensors", "numpy")
_PYTEST_NEEDS = ("pytest", "pygments")
_GPU_TESTS = ("engine/test_gpu.py", "engine/kernels/test_cuda.py", "engine/test_kernel_checks.py")
_FINDER = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
"""


def _hiding(modules: tuple[str, ...]) -> str:
    return f"MISSING = {modules!r}\n{_FINDER}"


def test_the_engine_and_the_tests_of_a_gpu_import_only_what_computing_needs() -> None:
    files = [*(_ROOT / "gptoss_cli" / "engine").rglob("*.py"), *(_ROOT / "tests" / file for file in _GPU_TESTS)]
    names = [".".join(file.relative_to(_ROOT).with_suffix("").parts) for file in files]
    hidden = tuple(name for name in _MISSING if name not in (*_ENGINE_NEEDS, *_PYTEST_NEEDS))
    program = f"{_hiding(hidden)}\nimport importlib\nfor name in {names!r}: importlib.import_module(name)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=_ROOT)


def test_the_steps_take_less_than_ten_minutes_and_are_known() -> None:
    script = (_ROOT / "tests" / "gpu_run.sh").read_text("utf-8")
    steps = re.findall(r"^step (\d+) (\w+)", script, re.M)
    assert {name for _, name in steps} | {"table"} == {
        name.removeprefix("step_") for name in vars(gpu_run) if name.startswith("step_")
    }
    budget = int(re.findall(r"BUDGET:-(\d+)", script)[0])
    assert max(int(seconds) for seconds, _ in steps) < budget < 600


def test_the_table_has_at_most_eleven_kilobytes() -> None:
    text = gpu_run.table(["x" * 300] * 200)
    assert len(text.encode()) == 11_000
    assert max(map(len, text.splitlines())) == gpu_run.MOST_OF_A_LINE
    assert gpu_run.table(["one", "two µs"]) == "one\ntwo ?s"


def _run(folder: Path, steps: str = "", **variables: str) -> str:
    (folder / "site").mkdir()
    # Triton's interpreter computes with numpy, which a GPU does not need.
    hidden = tuple(name for name in _MISSING if name != "numpy")
    (folder / "site" / "sitecustomize.py").write_text(_hiding(hidden), "utf-8")
    environment = os.environ | {
        "REHEARSE": "1", "OUT": str(folder / "out"), "PYTHON": sys.executable, "STEPS": steps,
        "PYTHONPATH": str(folder / "site"), **variables,
    }  # fmt: skip
    command = ["bash", str(_ROOT / "tests" / "gpu_run.sh")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert (done.returncode, done.stderr) == (0, ""), (folder / "out" / "log.txt").read_text("utf-8")
    return done.stdout


@pytest.mark.slow
def test_a_rehearsal_of_the_first_step_works_on_a_bare_machine(tmp_path: Path) -> None:
    printed = _run(tmp_path, "env memory tests")
    assert "torch " in printed
    assert "GB/s" in printed
    assert "the tests with pytest were not run: there is no pytest" in printed
    assert "FAILED" not in printed


@pytest.mark.slow
def test_a_step_without_time_is_reported(tmp_path: Path) -> None:
    assert "FAILED env: env was left out: the time is used up" in _run(tmp_path, "env", BUDGET="5")


@pytest.mark.slow
def test_a_whole_rehearsal_works_on_a_bare_machine(tmp_path: Path) -> None:
    printed = _run(tmp_path, BUDGET="3000")
    assert "FAILED" not in printed, (tmp_path / "out" / "log.txt").read_text("utf-8")
    found = re.search(r"(\d+) of (\d+) kernel checks are right", printed)
    assert found is not None
    assert int(found[1]) == int(found[2]) >= 40
    for name in ("20b", "120b"):
        assert f"{name} behind 32: decode" in printed
        assert f"{name} prefill of 33" in printed
    assert "as it is: qkv" in printed
    assert "of experts found" in printed
