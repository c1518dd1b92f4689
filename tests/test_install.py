"""The native library is built where there is a compiler, and its absence stops nothing."""

import os
import subprocess
import sys
from pathlib import Path

import gptoss_cli

_ROOT = Path(gptoss_cli.__file__).parents[1]


def _build(folder: Path, compiler: str) -> list[Path]:
    """Return what the installation builds with `compiler`; it must succeed in any case."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder)]
    environment = {**os.environ, "CC": compiler, "LDSHARED": f"{compiler} -shared"}
    subprocess.run([*command, "--build-temp", str(folder)], cwd=_ROOT, check=True, env=environment, capture_output=True)
    return [path for path in folder.rglob("_native*") if path.is_file()]


def test_without_a_compiler_the_installation_succeeds_and_builds_nothing(tmp_path: Path) -> None:
    assert _build(tmp_path, "no-such-compiler") == []
