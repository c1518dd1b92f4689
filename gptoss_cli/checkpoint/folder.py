"""The files of a checkpoint's folder: JSON files, index, shards. Trusts no file and opens no weights."""

import hashlib
import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NoReturn

from gptoss_cli.errors import Hint, IntegrityError, NotInstalledError
from gptoss_cli.files import open_regular, read_regular

INDEX = "model.safetensors.index.json"
MAX_JSON_BYTES = 1_000_000
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit


def weights_folder(folder: Path) -> Path:
    """Return the folder with config and weights: `folder`, or `folder/original` if only that has weights.

    Raises NotInstalledError if neither has weights.
    """
    for candidate in (folder, folder / "original"):
        if (candidate / INDEX).exists() or safetensors_files(candidate):
            return candidate
    raise NotInstalledError(f"{folder} holds no safetensors files", Hint.DOWNLOAD)


def safetensors_files(folder: Path) -> list[Path]:
    """Return the safetensors files in a folder, in the index or not."""
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("."))


def fingerprint(folder: Path) -> str:
    """Return a digest of config and index, and of the size, time and header of each shard. No weights are read.

    Raises IntegrityError if a file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for path in (folder / "config.json", folder / INDEX):
            digest.update(read_regular(path) if path.exists() else b"")
        for path in safetensors_files(folder):
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
            with open_regular(path) as file:
                length = int.from_bytes(file.read(8), "little")
                digest.update(file.read(min(length, _MAX_HEADER_BYTES)))
    except OSError as exc:
        raise IntegrityError(f"{exc.filename} cannot be read: {exc.strerror}") from exc
    return digest.hexdigest()


def read_index(path: Path) -> dict[str, str]:
    """Return the shard of each tensor. Raises IntegrityError for a name that could lead out of the folder."""
    shard_of = load_json(path).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise IntegrityError(f"{path}: weight_map should map tensors to files", Hint.DOWNLOAD)
    for name, shard in shard_of.items():
        if not isinstance(shard, str) or not _is_shard_name(shard):
            mapping = f"{ascii(name)[:80]} to {ascii(shard)[:80]}"
            raise IntegrityError(f"{path}: weight_map maps {mapping}, which is not the name of a shard")
    return shard_of


def load_json(path: Path) -> dict[str, object]:
    """Read an untrusted JSON object of at most 1 MB. Raises NotInstalledError, or IntegrityError naming the file."""
    try:
        raw = read_regular(path, MAX_JSON_BYTES + 1)
    except FileNotFoundError as exc:
        raise NotInstalledError(f"{path} is missing", Hint.DOWNLOAD) from exc
    except OSError as exc:
        raise IntegrityError(f"{path} cannot be read: {exc.strerror}") from exc
    if len(raw) > MAX_JSON_BYTES:
        raise IntegrityError(f"{path} is over {MAX_JSON_BYTES:,} bytes, which is too large")
    return parse_json(raw, path)


def parse_json(raw: bytes, path: Path) -> dict[str, object]:
    """Return the JSON object in `raw`, read from `path`. Raises IntegrityError naming the file."""
    try:
        values = json.loads(raw.decode(), parse_constant=_reject_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as exc:
        raise IntegrityError(f"{path} is not valid JSON: {ascii(str(exc))[1:-1][:160]}") from exc
    if not isinstance(values, dict):
        raise IntegrityError(f"{path} is not a JSON object")
    return values


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return values


def is_plain_file_name(name: str) -> bool:
    """Return True if `name` is that of a visible file in its own folder, on every operating system."""
    if not name.isprintable() or not 0 < len(name) <= 255 or name.startswith(".") or ":" in name:
        return False
    return PurePosixPath(name).name == name and PureWindowsPath(name).name == name


def _is_shard_name(name: str) -> bool:
    return name.endswith(".safetensors") and is_plain_file_name(name)


def what_it_is(path: Path) -> str:
    """Describe a broken safetensors file by its first bytes: a Git LFS pointer, a web page, or an empty file."""
    start = read_regular(path, 256).lstrip().lower()
    if not start:
        return "is empty"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights"
    if start.startswith((b"<!doctype", b"<html")):
        return "is a web page, not the weights"
    return "is not a whole safetensors file"
