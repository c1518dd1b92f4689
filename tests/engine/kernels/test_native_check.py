"""The C sources under the address and undefined-behaviour sanitizers."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import gptoss_cli

_SOURCES = Path(gptoss_cli.__file__).parent / "engine/kernels/native"
_CHECKS = [str(Path(__file__).with_name(name)) for name in ("native_check.c", "attention_check.c")]
_WARNINGS = ["-Wall", "-Wextra", "-Werror"]
_SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.skipif(sys.platform == "win32", reason="its compiler takes other options")
@pytest.mark.parametrize("optimised", ["-O0", pytest.param("-O1", marks=pytest.mark.slow)])
def test_every_kernel_stays_within_its_arrays_and_agrees_with_the_scalar_one(optimised: str, tmp_path: Path) -> None:
    """With -O1 it takes four times as long, most of it in the compiler, and more warnings are possible."""
    program = tmp_path / "check"
    sources = [*map(str, _SOURCES.rglob("*.c")), *_CHECKS]
    command = ["cc", "-std=gnu11", optimised, "-g", "-pthread", *_SANITIZE, *_WARNINGS, f"-I{_SOURCES}", *sources]
    subprocess.run([*command, "-lm", "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "scalar checked against scalar" in done.stdout


@pytest.fixture(scope="module")
def build_for_arm64(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Return a function that builds the check for arm64 with a cross compiler, sanitized or not, for an emulator."""
    if not shutil.which("aarch64-linux-gnu-gcc") or not shutil.which("qemu-aarch64"):
        pytest.skip("needs gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user")

    @cache
    def build(sanitized: bool) -> Path:
        program = tmp_path_factory.mktemp("arm64") / "check"
        sources = [*map(str, _SOURCES.rglob("*.c")), *_CHECKS]
        undefined = ["-fsanitize=undefined", "-fno-sanitize-recover=all"] if sanitized else []
        command = ["aarch64-linux-gnu-gcc", "-std=gnu11", "-O1", "-static", "-pthread", *undefined, *_WARNINGS]
        subprocess.run([*command, f"-I{_SOURCES}", *sources, "-lm", "-o", str(program)], check=True)
        return program

    return build


@pytest.mark.parametrize("sanitized", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("processor", "tables"),
    [
        ("max", "i8mm dotprod neon scalar"),
        pytest.param("neoverse-n1", "dotprod neon scalar", marks=pytest.mark.slow),
        pytest.param("cortex-a72", "neon scalar", marks=pytest.mark.slow),
    ],
)
def test_arm64_kernels_agree_with_the_scalar_ones_on_each_processor(
    build_for_arm64: Callable[[bool], Path], processor: str, tables: str, sanitized: bool
) -> None:
    command = ["qemu-aarch64", "-cpu", processor, str(build_for_arm64(sanitized))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"{name} checked against scalar" for name in tables.split()]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.skipif(sys.platform == "win32", reason="its compiler takes other options")
def test_the_benchmark_fits_the_tables() -> None:
    source = Path(__file__).with_name("benchmark_native.c")
    command = ["cc", "-std=gnu11", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{_SOURCES}", str(source)]
    subprocess.run(command, check=True)
