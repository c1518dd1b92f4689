"""One download at a time: a lock that the system releases when its owner dies."""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from gptoss_cli.files import open_to_append

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_POLL_SECONDS = 0.2


@contextmanager
def locked(path: Path, *, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock at `path` within the block. Its folder must exist.

    While another process holds it, `waiting` is called several times a second; it may raise to give up. Raises OSError.
    """
    while (release := _acquire(path)) is None:
        waiting()
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        release()


def is_locked(path: Path) -> bool:
    """Return True if a process holds the lock at `path`, False if none does or if the file cannot be opened."""
    if not path.exists():
        return False
    try:
        release = _acquire(path)
    except OSError:
        return False
    if release is None:
        return True
    release()
    return False


def _acquire(path: Path) -> Callable[[], None] | None:
    """Return a function that releases the lock, or None if another process holds it."""
    file = open_to_append(path)
    try:
        _lock_file(file)
    except BlockingIOError:
        file.close()
        return None
    except OSError:  # a network file system without locks
        file.close()
        return _acquire_owner_file(path.with_name(f"{path.name}.owner"))
    return file.close


def _lock_file(file: BinaryIO) -> None:
    """Lock a file. Raises BlockingIOError if it is locked, OSError if the file system has no locks."""
    if sys.platform == "win32":
        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as exc:
            raise BlockingIOError(str(exc)) from exc
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _acquire_owner_file(path: Path) -> Callable[[], None] | None:
    """Create a file that names its owner. A file whose owner no longer runs on this machine is replaced."""
    owner = f"{socket.gethostname()} {os.getpid()}"
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        if _is_alive(path):
            return None
        path.unlink(missing_ok=True)
        return _acquire_owner_file(path)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(owner)
    return lambda: path.unlink(missing_ok=True)


def _is_alive(path: Path) -> bool:
    with suppress(OSError, ValueError):
        host, number = path.read_text("utf-8").split()
        if host == socket.gethostname() and os.name == "posix":
            try:
                os.kill(int(number), 0)
            except ProcessLookupError:
                return False
    return True
