"""The C sources under the address and undefined-behaviour sanitizers."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gptoss_cli

_SOURCES = Path(gptoss_cli.__file__).parent / "engine/kernels/native"
_CHECKS = [str(Path(__file__).with_name(name)) for name in ("native_check.c", "attention_check.c")]
_WARNINGS = ["-Wall", "-Wextra", "-Werror"]
_SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.skipif(sys.platform == "win32", reason="its compiler takes other options")
def test_every_kernel_stays_within_its_arrays_and_agrees_with_the_scalar_one(tmp_path: Path) -> None:
    program = tmp_path / "check"
    sources = [*map(str, _SOURCES.rglob("*.c")), *_CHECKS]
    command = ["cc", "-std=gnu11", "-O1", "-g", "-pthread", *_SANITIZE, *_WARNINGS, f"-I{_SOURCES}", *sources]
    subprocess.run([*command, "-lm", "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "scalar checked against scalar" in done.stdout


@pytest.fixture(scope="module")
def arm64_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The check for arm64, built by a cross compiler, to be run by an emulator."""
    if not shutil.which("aarch64-linux-gnu-gcc") or not shutil.which("qemu-aarch64"):
        pytest.skip("needs gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user")
    program = tmp_path_factory.mktemp("arm64") / "check"
    sources = [*map(str, _SOURCES.rglob("*.c")), *_CHECKS]
    undefined = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
    command = ["aarch64-linux-gnu-gcc", "-std=gnu11", "-O1", "-static", "-pthread", *undefined, *_WARNINGS]
    subprocess.run([*command, f"-I{_SOURCES}", *sources, "-lm", "-o", str(program)], check=True)
    return program


@pytest.mark.parametrize(
    ("processor", "tables"),
    [
        ("max", "i8mm dotprod neon scalar"),
        pytest.param("neoverse-n1", "dotprod neon scalar", marks=pytest.mark.slow),
        pytest.param("cortex-a72", "neon scalar", marks=pytest.mark.slow),
    ],
)
def test_arm64_kernels_agree_with_the_scalar_ones_on_each_processor(
    arm64_program: Path, processor: str, tables: str
) -> None:
    command = ["qemu-aarch64", "-cpu", processor, str(arm64_program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"{name} checked against scalar" for name in tables.split()]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.skipif(sys.platform == "win32", reason="its compiler takes other options")
def test_the_benchmark_fits_the_tables() -> None:
    source = Path(__file__).with_name("benchmark_native.c")
    command = ["cc", "-std=gnu11", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{_SOURCES}", str(source)]
    subprocess.run(command, check=True)
