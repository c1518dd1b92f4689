"""What a checkpoint's files must be: names, sizes, digests. A manifest is read as warily as any other file."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gptoss_cli.checkpoint.folder import is_plain_file_name, load_json
from gptoss_cli.errors import IntegrityError

if TYPE_CHECKING:
    from hashlib import _Hash

MANIFEST = "manifest.json"
_FORMAT = 1
_MOST_FILES = 10_000
_MOST_BYTES = 1 << 50
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_HEX_DIGITS = {"sha256": 64, "git-sha1": 40}


@dataclass(frozen=True, slots=True)
class Digest:
    """A checksum and how to compute it: `sha256`, or `git-sha1`, git's own name for a file it holds itself."""

    kind: str
    hex: str

    def start(self, size_bytes: int) -> "_Hash":
        """A hash to feed with the file's bytes, of which there are `size_bytes`."""
        if self.kind == "sha256":
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """One file of a checkpoint, as its publisher has it."""

    name: str
    size_bytes: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a repository at one commit. `revision` is the name it was asked by; `verified` is ISO 8601, UTC."""

    repository: str
    revision: str
    commit: str
    files: tuple[CheckpointFile, ...]
    verified: str | None = None

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def is_repository(text: str) -> bool:
    """Whether `text` is OWNER/NAME."""
    return _REPOSITORY.fullmatch(text) is not None and all(part.strip(".") for part in text.split("/"))


def is_commit(text: str) -> bool:
    """Whether `text` is a whole commit's name."""
    return _COMMIT.fullmatch(text) is not None


def read_manifest(path: Path) -> Manifest:
    """Raises NotInstalledError if there is none, IntegrityError if it is not one."""
    return _Reader(path).manifest(load_json(path))


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Put it in place whole, or not at all. Raises OSError."""
    values = {
        "format": _FORMAT,
        "repository": manifest.repository,
        "revision": manifest.revision,
        "commit": manifest.commit,
        "verified": manifest.verified,
        "files": [
            {"name": file.name, "size": file.size_bytes, file.digest.kind: file.digest.hex} for file in manifest.files
        ],
    }
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(values, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class _Reader:
    """Takes checked values out of a manifest; every refusal names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def manifest(self, values: Mapping[str, object]) -> Manifest:
        if values.get("format") != _FORMAT:
            self._refuse("it is of another format than this program writes")
        files = values.get("files")
        if not isinstance(files, list) or not 0 < len(files) <= _MOST_FILES:
            self._refuse("it lists no files")
        entries = tuple(self._file(each) for each in files)
        if len({entry.name.casefold() for entry in entries}) != len(entries):
            self._refuse("it lists a file twice")
        verified = values.get("verified")
        if verified is not None and not (isinstance(verified, str) and _TIME.fullmatch(verified)):
            self._refuse("`verified` is no time")
        repository, revision, commit = (self._text(values, key) for key in ("repository", "revision", "commit"))
        if not is_repository(repository) or not is_commit(commit):
            self._refuse("it names no repository and commit")
        return Manifest(repository, revision, commit, entries, verified)

    def _file(self, entry: object) -> CheckpointFile:
        if not isinstance(entry, dict):
            self._refuse("a file's entry is no object")
        name, size = self._text(entry, "name"), entry.get("size")
        if not is_plain_file_name(name) or name == MANIFEST:
            self._refuse(f"{ascii(name)[:80]} is not the name of a file in its folder")
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= _MOST_BYTES:
            self._refuse(f"{name!a} has no size")
        return CheckpointFile(name, size, self._digest(name, entry))

    def _digest(self, name: str, entry: Mapping[str, object]) -> Digest:
        for kind, digits in _HEX_DIGITS.items():
            value = entry.get(kind)
            if isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
                return Digest(kind, value)
        return self._refuse(f"{name!a} has no digest")

    def _text(self, values: Mapping[str, object], key: str) -> str:
        value = values.get(key)
        if not isinstance(value, str) or not 0 < len(value) <= 255:
            self._refuse(f"{key} is missing")
        return value

    def _refuse(self, why: str) -> NoReturn:
        raise IntegrityError(f"{self._path} is not a manifest: {why}. Delete it, and run: gptoss download")
