"""One download at a time: a lock that the system takes back when its owner dies."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_POLL_SECONDS = 0.2


@contextmanager
def locked(path: Path, *, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock at `path` within the block; its folder must exist.

    While another process holds it, `waiting` is called again and again; it may raise to give up. Raises OSError.
    """
    while (lock := _take(path)) is None:
        waiting()
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        lock()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock at `path`; False too where that cannot be told."""
    if not path.exists():
        return False
    try:
        release = _take(path)
    except OSError:
        return False
    if release is None:
        return True
    release()
    return False


def _take(path: Path) -> Callable[[], None] | None:
    """What gives the lock back; None if another process has it."""
    file = path.open("ab")
    try:
        _lock_file(file)
    except BlockingIOError:
        file.close()
        return None
    except OSError:  # a network file system without locks
        file.close()
        return _take_softly(path.with_name(f"{path.name}.owner"))
    return file.close


def _lock_file(file: BinaryIO) -> None:
    """Raises BlockingIOError if it is locked, OSError if the file system has no locks."""
    try:
        import fcntl
    except ImportError:
        _lock_windows_file(file)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock_windows_file(file: BinaryIO) -> None:
    import msvcrt

    try:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except PermissionError as exc:
        raise BlockingIOError(str(exc)) from exc


def _take_softly(path: Path) -> Callable[[], None] | None:
    """A file that names its owner. One whose owner is gone from this machine is taken over."""
    owner = f"{socket.gethostname()} {os.getpid()}"
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        if _is_alive(path):
            return None
        path.unlink(missing_ok=True)
        return _take_softly(path)
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
