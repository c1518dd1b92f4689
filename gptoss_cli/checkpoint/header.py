"""The headers of safetensors files and their index, read as JSON and checked. No tensor is opened.

The format: 8 bytes of header length, little-endian; a JSON object of that length; the data of the tensors without gaps
(https://github.com/huggingface/safetensors).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from gptoss_cli.checkpoint.folder import INDEX, MAX_JSON_BYTES, parse_json, read_index, safetensors_files, what_it_is
from gptoss_cli.errors import Hint, IntegrityError, NotInstalledError
from gptoss_cli.files import SAFETENSORS_ITEM_BYTES, open_regular


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """The shape and dtype of a tensor. `dtype` is a safetensors name, for example BF16."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True, slots=True)
class CheckedTensors:
    """The result of a check that succeeded: the file of each expected tensor.

    `layout` is the index of the layout that the folder has. `unexpected` are the names of all other tensors.
    """

    layout: int
    files: dict[str, Path]
    unexpected: list[str]


def check_tensors(folder: Path, layouts: Sequence[Mapping[str, TensorSpec]]) -> CheckedTensors:
    """Check that the files of `folder` match its index and hold every tensor of one of the `layouts`.

    Raises NotInstalledError for a missing file, and IntegrityError naming the file or tensor for anything else.
    """
    specs, files = _read_headers(folder)
    _check_index(folder, files)
    layout = max(range(len(layouts)), key=lambda number: len(layouts[number].keys() & specs.keys()))
    expected = layouts[layout]
    for name, spec in expected.items():
        if name not in specs:
            raise IntegrityError(f"{folder}: tensor {_printable(name)} is missing", Hint.DOWNLOAD)
        if specs[name] != spec:
            message = f"tensor {name} should be {spec} according to config.json, but is {specs[name]}"
            raise IntegrityError(f"{files[name]}: {message}")
    unexpected = [name for name in specs if name not in expected]
    return CheckedTensors(layout, {name: files[name] for name in expected}, unexpected)


def _read_headers(folder: Path) -> tuple[dict[str, TensorSpec], dict[str, Path]]:
    """Return the spec and the file of each tensor in the shards of `folder`."""
    index = folder / INDEX
    shards = sorted(set(read_index(index).values())) if index.exists() else None
    specs: dict[str, TensorSpec] = {}
    files: dict[str, Path] = {}
    for path in safetensors_files(folder) if shards is None else [folder / name for name in shards]:
        for name, spec in read_header(path).items():
            if name in files:
                message = f"{path}: tensor {_printable(name)} is also in {files[name].name}"
                raise IntegrityError(message, Hint.DOWNLOAD)
            specs[name], files[name] = spec, path
    return specs, files


def _check_index(folder: Path, files: Mapping[str, Path]) -> None:
    if not (folder / INDEX).exists():
        return
    for name, shard in read_index(folder / INDEX).items():
        if name not in files:
            message = f"{folder / shard}: tensor {_printable(name)} is missing, but {INDEX} lists it"
            raise IntegrityError(message, Hint.DOWNLOAD)
        if files[name].name != shard:
            message = f"{folder / INDEX}: tensor {_printable(name)} is in {files[name].name}, not in {shard}"
            raise IntegrityError(message, Hint.DOWNLOAD)


def read_header(path: Path) -> dict[str, TensorSpec]:
    """Return the tensors of a safetensors file.

    Raises NotInstalledError if it is missing, and IntegrityError if the header is invalid or does not match the file.
    """
    try:
        with open_regular(path) as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= length <= MAX_JSON_BYTES:
                raise IntegrityError(f"{path} {what_it_is(path)}: it has no header", Hint.DOWNLOAD)
            raw = file.read(length)
            size_bytes = file.seek(0, 2)
    except FileNotFoundError as exc:
        raise NotInstalledError(f"{path} is missing", Hint.DOWNLOAD) from exc
    except OSError as exc:
        raise IntegrityError(f"{path} cannot be read: {exc.strerror}") from exc
    if len(raw) < length:
        raise IntegrityError(f"{path} {what_it_is(path)}: it ends in its header", Hint.DOWNLOAD)
    return _Header(path).tensors(parse_json(raw, path), size_bytes - 8 - length)


@dataclass(frozen=True, slots=True)
class _Extent:
    """The byte range of a tensor, counted from the end of the header."""

    start: int
    end: int
    name: str


class _Header:
    """Reads checked values from the header of one file. Every error names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def tensors(self, values: Mapping[str, object], data_bytes: int) -> dict[str, TensorSpec]:
        tensors, extents = {}, []
        for name, entry in values.items():
            if name != "__metadata__":
                tensors[name], extent = self._tensor(name, entry)
                extents.append(extent)
        self._check_extents(extents, data_bytes)
        return tensors

    def _tensor(self, name: str, entry: object) -> tuple[TensorSpec, _Extent]:
        if not isinstance(entry, dict):
            self._refuse(name, "is not described by a JSON object")
        dtype, shape = entry.get("dtype"), self._numbers(name, entry.get("shape"))
        offsets = self._numbers(name, entry.get("data_offsets"))
        if not isinstance(dtype, str) or dtype not in SAFETENSORS_ITEM_BYTES:
            self._refuse(name, f"has the unknown dtype {_printable(dtype)}")
        if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * SAFETENSORS_ITEM_BYTES[dtype]:
            self._refuse(name, "has a byte range that does not match its shape")
        return TensorSpec(shape, dtype), _Extent(offsets[0], offsets[1], name)

    def _numbers(self, name: str, values: object) -> tuple[int, ...]:
        if not isinstance(values, list) or len(values) > 8:
            self._refuse(name, "has no valid shape and data_offsets")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
                self._refuse(name, "has an invalid number in its shape or data_offsets")
        return tuple(values)

    def _check_extents(self, extents: list[_Extent], data_bytes: int) -> None:
        """Check that the byte ranges cover the data of the file without gaps and overlaps."""
        position = 0
        for extent in sorted(extents, key=lambda extent: (extent.start, extent.end)):
            if extent.start != position:
                self._refuse(extent.name, "overlaps another" if extent.start < position else "has a gap before it")
            position = extent.end
        if position != data_bytes:
            message = f"{self._path} holds {data_bytes:,} bytes of tensors, but its header requires {position:,}"
            raise IntegrityError(message, Hint.DOWNLOAD)

    def _refuse(self, name: str, why: str) -> NoReturn:
        raise IntegrityError(f"{self._path}: tensor {_printable(name)} {why}", Hint.DOWNLOAD)


def _printable(value: object) -> str:
    """Return a value from a file for a message: short and without control characters."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
