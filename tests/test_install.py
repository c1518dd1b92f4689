"""The native library is built where there is a compiler, and its absence stops nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gptoss_cli

_ROOT = Path(gptoss_cli.__file__).parents[1]


def _build(folder: Path, compiler: str) -> list[Path]:
    """What the installation builds with `compiler`; it must succeed in any case."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder)]
    environment = {**os.environ, "CC": compiler, "LDSHARED": f"{compiler} -shared"}
    subprocess.run([*command, "--build-temp", str(folder)], cwd=_ROOT, check=True, env=environment, capture_output=True)
    return [path for path in folder.rglob("_native*") if path.is_file()]


def test_without_a_compiler_the_installation_succeeds_and_builds_nothing(tmp_path: Path) -> None:
    assert _build(tmp_path, "no-such-compiler") == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_compiler_without_openmp_builds_a_library_that_loads(tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\nfor word; do [ "$word" != -fopenmp ] || exit 1; done\nexec cc "$@"\n')
    compiler.chmod(0o755)
    (library,) = _build(tmp_path / "built", str(compiler))
    program = "import sys; from pathlib import Path; from gptoss_cli.engine.kernels.native_library import Native; "
    program += "print(Native(Path(sys.argv[1])).has_threads)"
    done = subprocess.run([sys.executable, "-c", program, library], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
