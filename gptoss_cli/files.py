"""Writing files so that a reader sees the old content or the new, and never a part of either."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


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
