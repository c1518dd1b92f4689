"""Reading regular files only; writing so that a reader sees the old content or the new, never a part of either."""

import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

# Flags that some systems lack. Without O_NONBLOCK, opening a FIFO waits for its writer.
READ_FLAGS: Final = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


def open_regular(path: str | os.PathLike[str], *, flags: int = READ_FLAGS) -> BufferedReader:
    """Open a regular file for reading, without waiting for anything.

    Raises OSError, also for a folder, a FIFO, a socket or a device, and for a path that no file can have.
    """
    return cast(BufferedReader, _open_if_regular(path, flags, "rb"))


def open_to_append(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading and appending, and create it if it is missing. Raises as `open_regular`."""
    return cast(BinaryIO, _open_if_regular(path, READ_FLAGS | os.O_RDWR | os.O_APPEND | os.O_CREAT, "a+b"))


def _open_if_regular(path: str | os.PathLike[str], flags: int, mode: str) -> IO[bytes]:
    try:
        handle = os.open(path, flags, 0o666)
    except ValueError as exc:
        raise OSError(0, str(exc), os.fspath(path)) from exc
    try:
        kind = os.fstat(handle).st_mode
        if not stat.S_ISREG(kind):
            reason = "it is a folder" if stat.S_ISDIR(kind) else "it is not a regular file"
            raise OSError(0, reason, os.fspath(path))
        return os.fdopen(handle, mode)
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | os.PathLike[str], max_bytes: int = -1) -> bytes:
    """Return the content of a regular file, or its first `max_bytes`. Raises as `open_regular`."""
    with open_regular(path) as file:
        return file.read(max_bytes)


@contextmanager
def replacing(path: Path, *, mode: int = 0o600, sync: bool = False) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that takes its name when the block ends without an exception.

    The file gets `mode` whatever the umask is. With `sync` the content is on the disk before the name changes, so that
    not even a power failure leaves an empty file. Any exception, Ctrl-C included, leaves `path` as it was.
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


# Bytes per element, by the dtype names of the safetensors format.
SAFETENSORS_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


def safetensors_header(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Return the header of a safetensors file that holds `tensors`, a dtype and a shape each, in this order.

    The data of the tensors follow it without gaps. Format: 8 bytes of header length, little-endian, then JSON padded
    with spaces to a multiple of 8 (https://github.com/huggingface/safetensors).
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = SAFETENSORS_ITEM_BYTES[dtype]
        for length in shape:
            size *= length
        start, end = end, end + size
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
