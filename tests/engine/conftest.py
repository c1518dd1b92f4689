"""Tests of the engine run on one thread, and with the native library that the sources make."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import gptoss_cli
from gptoss_cli.engine.kernels.cpu import CpuKernels
from gptoss_cli.engine.kernels.native_library import Native, find_library

_ROOT = Path(gptoss_cli.__file__).parents[1]
_SOURCES = Path(gptoss_cli.__file__).parent / "engine/kernels/native"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """The tensors are so small that a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    """The installed library, or one that is built now if there is none or the sources are newer."""
    installed = find_library()
    newest = max(file.stat().st_mtime for file in _SOURCES.rglob("*.[ch]"))
    if installed is not None and installed.stat().st_mtime >= newest:
        return Native(installed)
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("native")
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder)]
    subprocess.run([*command, "--build-temp", str(folder)], cwd=_ROOT, check=True)
    return Native(next(folder.rglob("_native*")))


@pytest.fixture(scope="session")
def cpu_kernels(native: Native) -> CpuKernels:
    return CpuKernels(native)
