"""What safetensors files say of their tensors, read as JSON. Opens no tensor and imports no library.

The format: eight bytes of length, little-endian; a JSON object of that length; the tensors' bytes without holes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from gptoss_cli.checkpoint.folder import INDEX, MAX_JSON_BYTES, parse_json, read_index, safetensors_files, what_it_is
from gptoss_cli.errors import IntegrityError, NotInstalledError

_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """One tensor of a file; `dtype` is safetensors' word."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a tensor lies in the bytes after the header."""

    start: int
    end: int
    name: str


def check_tensors(folder: Path, layouts: Sequence[Mapping[str, tuple[str, tuple[int, ...]]]]) -> tuple[int, list[str]]:
    """Hold the headers of `folder` to its index, and to that of `layouts`, tensor -> (dtype, shape), which it has.

    Returns how many tensors were expected and found, and the names of those that nobody expects. Raises
    NotInstalledError for a missing file, IntegrityError naming the file for anything else.
    """
    found: dict[str, tuple[Path, TensorHeader]] = {}
    for path in _shards(folder):
        for name, tensor in read_header(path).items():
            if name in found:
                raise IntegrityError(f"{path}: tensor {_shown(name)} is also in {found[name][0].name}")
            found[name] = (path, tensor)
    _check_index(folder, {name: path for name, (path, _) in found.items()})
    expected = max(layouts, key=lambda layout: len(layout.keys() & found.keys()))
    for name, (dtype, shape) in expected.items():
        if name not in found:
            raise IntegrityError(f"{folder}: tensor {_shown(name)} is missing. Get the checkpoint again")
        path, tensor = found[name]
        if (tensor.dtype, tensor.shape) != (dtype, shape):
            is_what = f"{tensor.dtype} {list(tensor.shape)}"
            raise IntegrityError(f"{path}: tensor {name} should be {dtype} {list(shape)}, but is {is_what}")
    return len(expected), [name for name in found if name not in expected]


def read_header(path: Path) -> dict[str, TensorHeader]:
    """TensorHeader -> dtype and shape. Raises NotInstalledError, or IntegrityError if header and file disagree."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= length <= MAX_JSON_BYTES:
                raise IntegrityError(f"{path} {what_it_is(path)}: it has no header. Get it again")
            raw = file.read(length)
            size_bytes = file.seek(0, 2)
    except FileNotFoundError as exc:
        raise NotInstalledError(f"{path} is missing. Run: gptoss download") from exc
    except OSError as exc:
        raise IntegrityError(f"{path} cannot be read: {exc.strerror}. Check the folder and its permissions") from exc
    if len(raw) < length:
        raise IntegrityError(f"{path} {what_it_is(path)}: it ends in its header. Get it again")
    return _Header(path).tensors(parse_json(raw, path), size_bytes - 8 - length)


class _Header:
    """Takes checked values out of one header; every refusal names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def tensors(self, values: Mapping[str, object], data_bytes: int) -> dict[str, TensorHeader]:
        tensors, extents = {}, []
        for name, entry in values.items():
            if name != "__metadata__":
                tensors[name], extent = self._tensor(name, entry)
                extents.append(extent)
        self._check_extents(extents, data_bytes)
        return tensors

    def _tensor(self, name: str, entry: object) -> tuple[TensorHeader, Extent]:
        if not isinstance(entry, dict):
            self._refuse(name, "is to_json by no object")
        dtype, shape = entry.get("dtype"), self._numbers(name, entry.get("shape"))
        offsets = self._numbers(name, entry.get("data_offsets"))
        if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
            self._refuse(
                name, f"has the unknown dtype {_shown(dtype) if isinstance(dtype, str) else type(dtype).__name__}"
            )
        if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * _ITEM_BYTES[dtype]:
            self._refuse(name, "has not the bytes its shape needs")
        return TensorHeader(dtype, shape), Extent(offsets[0], offsets[1], name)

    def _numbers(self, name: str, values: object) -> tuple[int, ...]:
        if not isinstance(values, list) or len(values) > 8:
            self._refuse(name, "has no shape and place")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
                self._refuse(name, "has a shape or place that is none")
        return tuple(values)

    def _check_extents(self, extents: list[Extent], data_bytes: int) -> None:
        """Without holes or overlaps, from the header's end to the file's."""
        position = 0
        for extent in sorted(extents, key=lambda extent: (extent.start, extent.end)):
            if extent.start != position:
                self._refuse(extent.name, "overlaps another" if extent.start < position else "has a hole before it")
            position = extent.end
        if position != data_bytes:
            raise IntegrityError(
                f"{self._path} holds {data_bytes:,} bytes of tensors, not {position:,} as its header says. Get it again"
            )

    def _refuse(self, name: str, why: str) -> NoReturn:
        raise IntegrityError(f"{self._path}: tensor {_shown(name)} {why}. Get it again")


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.exists():
        return [folder / name for name in sorted(set(read_index(index).values()))]
    return safetensors_files(folder)


def _check_index(folder: Path, found: Mapping[str, Path]) -> None:
    if not (folder / INDEX).exists():
        return
    for name, shard in read_index(folder / INDEX).items():
        if name not in found:
            raise IntegrityError(f"{folder / shard}: tensor {_shown(name)} is missing, though {INDEX} promises it")
        if found[name].name != shard:
            where = found[name].name
            raise IntegrityError(f"{folder / INDEX}: tensor {_shown(name)} is in {where}, not in {shard}")


def _shown(value: object) -> str:
    """Something from a file, short and without control characters."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
