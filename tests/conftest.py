"""No test reads or writes the user's own files or settings."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests run on all cores already: a thread for each core in every one of them would wait for the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Triton reads this when it is imported, and without a driver there is nothing but its interpreter to run kernels. The
# drivers of NVIDIA, of NVIDIA within WSL2, and of AMD:
_DRIVERS = ("/proc/driver/nvidia", "/usr/lib/wsl/lib/libcuda.so.1", "/dev/kfd")
if not any(Path(driver).exists() for driver in _DRIVERS):
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The tests start the program hundreds of times: it need not be compiled every time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_OWN = ("GPTOSS_", "HF_", "XDG_", "TIKTOKEN_")
_COLOR = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "COLUMNS")


def pytest_configure(config: pytest.Config) -> None:
    """Set the folders before the tests are collected: some modules load the vocabulary when they are imported."""
    folder = tempfile.TemporaryDirectory(prefix="gptoss-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    for name in list(os.environ):
        if name.startswith(_OWN):
            patch.delenv(name)
    home = Path(folder.name)
    patch.setenv("GPTOSS_HOME", str(home / "gptoss"))
    patch.setenv("HF_HOME", str(home / "huggingface"))
    # Compiled kernels are kept, but not among the user's. Without its plugin a config has no cache.
    cache = getattr(config, "cache", None)
    kept = cache.mkdir("triton") if cache else home / "triton"
    patch.setenv("TRITON_CACHE_DIR", str(kept))


@pytest.fixture(autouse=True, scope="session")
def _own_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in _COLOR:
            patch.delenv(name, raising=False)
        # Programs that the tests start run this tree, and find the fakes in tests/.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        patch.setenv("TERM", "xterm-256color")
        yield


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Programs that the tests start must not inherit an ignored Ctrl-C, as everything in a shell's background does."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
