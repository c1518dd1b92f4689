"""Writing files so that a reader sees the old content or the new, and never a part of either."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path, *, mode: int = 0o600, sync: bool = False) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that takes its name when the block ends without an exception.

    `mode` is given to the file as it stands, whatever the umask. With `sync` the content is on the disk before the name
    changes, so that not even a power failure leaves an empty file. An exception, Ctrl-C included, leaves `path` as it was.
    Raises OSError.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def replace_file(path: Path, data: bytes, *, mode: int = 0o600, sync: bool = False) -> None:
    """Make `data` the content of `path`. See `replacing`."""
    with replacing(path, mode=mode, sync=sync) as file:
        file.write(data)


def public_mode() -> int:
    """Return the mode of a new file that others may read, as the umask has it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask
