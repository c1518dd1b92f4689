"""A checkpoint's tensors without its weights: the headers of all files, and the data of a few small tensors."""

import math
from dataclasses import dataclass
from pathlib import Path

from gptoss_cli.checkpoint.folder import INDEX, MAX_JSON_BYTES, parse_json, read_index, safetensors_files
from gptoss_cli.checkpoint.header import read_header
from gptoss_cli.errors import IntegrityError, NotInstalledError
from gptoss_cli.files import SAFETENSORS_ITEM_BYTES, open_regular

_MOST_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor, its dtype as a safetensors name, and the file that holds it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path


def read_stored_tensors(folder: Path) -> list[StoredTensor]:
    """Return every tensor of the files in `folder`, of those that its index lists if it has one.

    Raises NotInstalledError for a missing file, IntegrityError for an invalid one and for a name in two files.
    """
    index = folder / INDEX
    shards = sorted(set(read_index(index).values())) if index.exists() else None
    found: dict[str, StoredTensor] = {}
    for path in safetensors_files(folder) if shards is None else [folder / name for name in shards]:
        for name, tensor in read_header(path).items():
            if name in found:
                raise IntegrityError(f"{path}: tensor {ascii(name)[:80]} is also in {found[name].path.name}")
            found[name] = StoredTensor(name, tensor.dtype, tensor.shape, path)
    return list(found.values())


def data_starts(path: Path) -> dict[str, int]:
    """Return the first byte of each tensor in a file whose header has been checked. Raises IntegrityError."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entries = parse_json(file.read(min(length, MAX_JSON_BYTES)), path)
    except OSError as exc:
        raise IntegrityError(f"{path} cannot be read: {exc.strerror}") from exc
    offsets = {
        name: entry["data_offsets"]
        for name, entry in entries.items()
        if isinstance(entry, dict) and "data_offsets" in entry
    }
    return {name: 8 + length + start for name, (start, _) in offsets.items()}


def read_data(tensor: StoredTensor) -> bytes:
    """Return the bytes of a small tensor, little-endian. Only they and the header are read.

    Raises NotInstalledError or IntegrityError if the file is missing or has changed since its header was checked.
    """
    try:
        with open_regular(tensor.path) as file:
            length = int.from_bytes(file.read(8), "little")
            entry = parse_json(file.read(min(length, MAX_JSON_BYTES)), tensor.path).get(tensor.name)
            offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
            size_bytes = math.prod(tensor.shape) * SAFETENSORS_ITEM_BYTES[tensor.dtype]
            assert size_bytes <= _MOST_BYTES, "only small tensors are read"
            # The header was checked when the tensor was found.
            if not isinstance(offsets, list) or offsets[1] - offsets[0] != size_bytes:
                raise IntegrityError(f"{tensor.path}: tensor {tensor.name} has changed")
            file.seek(8 + length + offsets[0])
            return file.read(size_bytes)
    except FileNotFoundError as exc:
        raise NotInstalledError(f"{tensor.path} is missing") from exc
    except OSError as exc:
        raise IntegrityError(f"{tensor.path} cannot be read: {exc.strerror}") from exc
