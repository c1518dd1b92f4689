"""Files in the cache folder: KV caches of chats and 8-bit weights. They are private, limited, and safe to delete.

    kv/SHA256.chunk           keys and values of full attention layers, of a fixed number of tokens
    kv/LENGTH-SHA256.point    the rest of a conversation's KV cache at one length
    kv/LENGTH-SHA256.prefix   the same for the messages that chats begin with
    int8/*.safetensors        8-bit dense weights

Imports no torch, so that files can be listed and deleted without the engine.
"""

import os
import re
import stat
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from gptoss_cli import settings
from gptoss_cli.files import READ_FLAGS, open_regular

KV_LIMIT_BYTES: Final = 4 * 2**30
_KV_NAME: Final = re.compile(r"(?:[0-9a-f]{64}\.chunk|[0-9]{1,9}-[0-9a-f]{64}\.(?:point|prefix))")
_TEMPORARY_SUFFIX: Final = ".part"  # see files.replacing
_TEMPORARY_SECONDS: Final = 3600  # a temporary file as old as this was left by a program that was killed
_OPEN_FLAGS: Final = READ_FLAGS | getattr(os, "O_NOFOLLOW", 0)  # a link must not lead elsewhere


class PointKind(StrEnum):
    """The suffixes of points: saved at the end of a prompt, or after the messages that chats begin with."""

    CONVERSATION = "point"
    PREFIX = "prefix"


class CacheKind(StrEnum):
    """The kinds of files that `gptoss cache` lists."""

    CONVERSATION = "conversation KV"
    PREFIX = "prefix KV"
    INT8 = "int8 weights"


@dataclass(frozen=True, slots=True)
class CacheFile:
    """A file that can be made again; `last_used` is in seconds since 1970."""

    kind: CacheKind
    path: Path
    bytes: int
    last_used: float


def kv_folder() -> Path:
    """Return the folder of KV caches, which may not exist."""
    return settings.cache_folder() / "kv"


def int8_folder() -> Path:
    """Return the folder of 8-bit weights, which may not exist."""
    return settings.cache_folder() / "int8"


def list_cache() -> list[CacheFile]:
    """Return all files of the cache, the latest used one first. Folders that cannot be read have none."""
    folders = (
        (CacheKind.CONVERSATION, kv_folder()),
        (CacheKind.PREFIX, settings.cache_folder() / "prefixes"),  # of earlier versions
        (CacheKind.INT8, int8_folder()),
    )
    found = []
    for kind, folder in folders:
        for path, status in _regular_files(folder):
            if path.suffix == _TEMPORARY_SUFFIX and not _is_leftover(path, status):
                continue  # it is being written
            kind_here = CacheKind.PREFIX if path.suffix == f".{PointKind.PREFIX}" else kind
            found.append(CacheFile(kind_here, path, status.st_size, status.st_mtime))
    return sorted(found, key=lambda file: file.last_used, reverse=True)


def forget(names: Iterable[str], *, kept: Collection[str] = ()) -> int:
    """Delete the KV files of a conversation, except those in `kept`, which other conversations use -> bytes freed.

    Names that are not those of KV files are ignored. Raises OSError if a file cannot be deleted.
    """
    freed_bytes = 0
    for name in set(names).difference(kept):
        path = kv_folder() / name
        if _KV_NAME.fullmatch(name):
            with suppress(FileNotFoundError):
                size_bytes = path.lstat().st_size
                path.unlink()
                freed_bytes += size_bytes
    return freed_bytes


def read_file(path: Path, *, min_bytes: int, max_bytes: int, last_bytes: int | None = None) -> bytearray | None:
    """Return the content of a regular file of an acceptable size, or its `last_bytes`; else None.

    A FIFO or a device is not waited for.
    """
    try:
        with open_regular(path, flags=_OPEN_FLAGS) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if not min_bytes <= size_bytes <= max_bytes:
                return None
            content = bytearray(size_bytes if last_bytes is None else last_bytes)
            file.seek(-len(content), os.SEEK_END)
            return content if file.readinto(content) == len(content) else None
    except OSError:
        return None


def make_private_folder(folder: Path) -> None:
    """Create `folder` if necessary and make it readable to its owner only, whatever the umask is. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)


def mark_used(paths: Iterable[Path]) -> None:
    """Set the use time of `paths` to now, a little older for each: the last one is then deleted first."""
    now = time.time_ns()
    follows = os.utime not in os.supports_follow_symlinks  # on Windows
    for index, path in enumerate(paths):
        with suppress(OSError):
            os.utime(path, ns=(now - index * 1000, now - index * 1000), follow_symlinks=follows)


def remove_oldest(folder: Path, limit_bytes: int) -> None:
    """Delete the files that were not used for the longest time until `limit_bytes` are left, and old temporary ones."""
    files = sorted(_regular_files(folder), key=lambda file: file[1].st_mtime, reverse=True)
    total_bytes = 0
    for path, status in files:
        total_bytes += status.st_size
        if total_bytes > limit_bytes or _is_leftover(path, status):
            total_bytes -= status.st_size
            with suppress(OSError):
                path.unlink()


def _is_leftover(path: Path, status: os.stat_result) -> bool:
    return path.suffix == _TEMPORARY_SUFFIX and time.time() - status.st_mtime > _TEMPORARY_SECONDS


def _regular_files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    try:
        paths = list(folder.iterdir())
    except OSError:
        return
    for path in paths:
        with suppress(OSError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                yield path, status
