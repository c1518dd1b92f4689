"""Only one process holds a lock at a time, and none when that process has died."""

import errno
import fcntl
import os
import socket
from pathlib import Path

import pytest

from gptoss_cli.checkpoint.lock import is_locked, locked


class _GaveUpError(Exception):
    """The lock is held by another process."""


def _give_up() -> None:
    raise _GaveUpError


@pytest.fixture(params=["flock", "no locks"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a lock, on a file system with locks and on one without."""

    def unsupported(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if request.param == "no locks":
        monkeypatch.setattr(fcntl, "flock", unsupported)
    return tmp_path / ".model.lock"


def test_a_second_owner_waits(path: Path) -> None:
    with locked(path, waiting=_give_up):
        assert is_locked(path)
        with pytest.raises(_GaveUpError), locked(path, waiting=_give_up):
            pytest.fail("it was locked twice")
    assert not is_locked(path)
    with locked(path, waiting=_give_up):
        pass


def test_a_lock_without_a_file_is_free(path: Path) -> None:
    assert not is_locked(path)
    assert not path.exists()


def test_a_lock_without_system_locks_is_taken_from_a_dead_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(file: object, operation: int) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    path = tmp_path / ".model.lock"
    path.touch()
    dead = 2**22 + 1  # above the largest process number of Linux
    (tmp_path / ".model.lock.owner").write_text(f"{socket.gethostname()} {dead}")
    assert not is_locked(path)
    (tmp_path / ".model.lock.owner").write_text(f"another-machine {dead}")
    assert is_locked(path)
