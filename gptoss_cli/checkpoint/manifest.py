"""The manifest of a checkpoint: names, sizes and digests of its files. It is checked like any untrusted file."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, Protocol

from gptoss_cli.checkpoint.folder import is_plain_file_name, load_json
from gptoss_cli.errors import Hint, IntegrityError
from gptoss_cli.files import public_mode, replace_file

MANIFEST = "manifest.json"
_FORMAT = 1
_MAX_FILES = 10_000
_MAX_FILE_BYTES = 1 << 50
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_HEX_DIGITS = {"sha256": 64, "git-sha1": 40}


class Hash(Protocol):
    """The part of hashlib's objects that is used here."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Digest:
    """A checksum of a kind: `sha256`, or `git-sha1`, which is git's object name of a file."""

    kind: str
    hex: str

    def start(self, size_bytes: int) -> Hash:
        """Return a hash for the content of a file of `size_bytes`."""
        if self.kind == "sha256":
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """A file of a checkpoint, as it was published."""

    name: str
    size_bytes: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a repository at one commit. `revision` is the requested name, `verified` a time (ISO 8601, UTC)."""

    repository: str
    revision: str
    commit: str
    files: tuple[CheckpointFile, ...]
    verified: str | None = None

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def is_repository(text: str) -> bool:
    """Return True if `text` is OWNER/NAME."""
    return _REPOSITORY.fullmatch(text) is not None and all(part.strip(".") for part in text.split("/"))


def is_commit(text: str) -> bool:
    """Return True if `text` is the full name of a commit."""
    return _COMMIT.fullmatch(text) is not None


def now() -> str:
    """Return the current time in the format of a manifest."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_manifest(path: Path, *, model: str = "", remedy: Hint = Hint.DOWNLOAD) -> Manifest:
    """Read a manifest. `model` is the name of its checkpoint and `remedy` what replaces that, for the hint of an error.

    Raises NotInstalledError if there is no manifest, IntegrityError if it is invalid.
    """
    return _Reader(path, model, remedy).manifest(load_json(path))


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replace the manifest at `path` atomically. Raises OSError."""
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
    replace_file(path, f"{json.dumps(values, indent=1)}\n".encode(), mode=public_mode(), sync=True)


class _Reader:
    """A reader of checked values from a manifest. Every error names the file."""

    def __init__(self, path: Path, model: str, remedy: Hint) -> None:
        self._path, self._model, self._remedy = path, model, remedy

    def manifest(self, values: Mapping[str, object]) -> Manifest:
        if values.get("format") != _FORMAT:
            self._reject("it has an unknown format")
        files = values.get("files")
        if not isinstance(files, list) or not 0 < len(files) <= _MAX_FILES:
            self._reject("it lists no files")
        entries = tuple(self._file(each) for each in files)
        if len({entry.name.casefold() for entry in entries}) != len(entries):
            self._reject("it lists a file twice")
        verified = values.get("verified")
        if verified is not None and not (isinstance(verified, str) and _TIME.fullmatch(verified)):
            self._reject("`verified` is not a time")
        repository, revision, commit = (self._text(values, key) for key in ("repository", "revision", "commit"))
        if not is_repository(repository) or not is_commit(commit):
            self._reject("its repository or commit is invalid")
        return Manifest(repository, revision, commit, entries, verified)

    def _file(self, entry: object) -> CheckpointFile:
        if not isinstance(entry, dict):
            self._reject("the entry of a file is not an object")
        name, size = self._text(entry, "name"), entry.get("size")
        if not is_plain_file_name(name) or name == MANIFEST:
            self._reject(f"{ascii(name)[:80]} is not a file name")
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= _MAX_FILE_BYTES:
            self._reject(f"{name!a} has no size")
        return CheckpointFile(name, size, self._digest(name, entry))

    def _digest(self, name: str, entry: Mapping[str, object]) -> Digest:
        for kind, digits in _HEX_DIGITS.items():
            value = entry.get(kind)
            if isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
                return Digest(kind, value)
        return self._reject(f"{name!a} has no digest")

    def _text(self, values: Mapping[str, object], key: str) -> str:
        value = values.get(key)
        if not isinstance(value, str) or not 0 < len(value) <= 255:
            self._reject(f"{key} is missing")
        return value

    def _reject(self, problem: str) -> NoReturn:
        message = f"{self._path} is not a manifest: {problem}"
        raise IntegrityError(message, self._remedy, subject=self._model)
