"""The C sources under the address and undefined-behaviour sanitizers."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gptoss_cli

_SOURCES = Path(gptoss_cli.__file__).parent / "engine/kernels/native"
_SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.skipif(sys.platform == "win32", reason="its compiler takes other options")
def test_every_kernel_stays_within_its_arrays_and_agrees_with_the_scalar_one(tmp_path: Path) -> None:
    program = tmp_path / "check"
    checks = [Path(__file__).with_name(name) for name in ("native_check.c", "attention_check.c")]
    sources = [*_SOURCES.rglob("*.c"), *checks]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    command = ["cc", "-std=gnu11", "-O1", "-g", "-pthread", *_SANITIZE, *warnings, f"-I{_SOURCES}", *map(str, sources)]
    subprocess.run([*command, "-lm", "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "scalar checked against scalar" in done.stdout


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.skipif(sys.platform == "win32", reason="its compiler takes other options")
def test_the_benchmark_fits_the_tables() -> None:
    source = Path(__file__).with_name("benchmark_native.c")
    command = ["cc", "-std=gnu11", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{_SOURCES}", str(source)]
    subprocess.run(command, check=True)
