"""Verify files by their digests. Reads every byte, needs no network, changes nothing."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from gptoss_cli.checkpoint.manifest import CheckpointFile, Digest
from gptoss_cli.errors import Hint, IntegrityError, NotInstalledError
from gptoss_cli.files import open_regular

_READ_AT_ONCE_BYTES = 1 << 20
_DIGEST_KINDS = {64: "sha256", 40: "git-sha1"}


class Progress(Protocol):
    """A receiver of the progress of each file, called from any thread."""

    def begin(self, name: str, done_bytes: int, total_bytes: int) -> None: ...
    def advance(self, name: str, count_bytes: int) -> None: ...
    def end(self, name: str) -> None: ...


def find_wrong_files(
    folder: Path, files: Sequence[CheckpointFile], progress: Progress, stop: threading.Event
) -> dict[str, str]:
    """Return the names of the files in `folder` with a wrong digest, each with the digest that it has.

    Uses every CPU core. Raises KeyboardInterrupt when `stop` is set, NotInstalledError if a file is missing,
    IntegrityError if one cannot be read.
    """
    largest_first = sorted(files, key=lambda file: -file.size_bytes)
    with ThreadPoolExecutor(max(1, min(len(files), os.cpu_count() or 1))) as pool:
        digests = [pool.submit(_digest, folder / file.name, file, progress, stop) for file in largest_first]
        try:
            found = {file.name: digest.result() for file, digest in zip(largest_first, digests, strict=True)}
        except BaseException:
            stop.set()  # the others need not finish
            raise
    if stop.is_set():
        raise KeyboardInterrupt
    return {file.name: found[file.name] for file in files if found[file.name] != file.digest.hex}


def _digest(path: Path, file: CheckpointFile, progress: Progress, stop: threading.Event) -> str:
    """Return the digest of `path`, of the kind that `file` has. It is incomplete once `stop` is set."""
    block = memoryview(bytearray(_READ_AT_ONCE_BYTES))
    try:
        with open_regular(path) as data:
            size_bytes = os.fstat(data.fileno()).st_size
            progress.begin(file.name, 0, size_bytes)
            digest = file.digest.start(size_bytes)
            while not stop.is_set() and (count := data.readinto(block)):
                digest.update(block[:count])
                progress.advance(file.name, count)
    except FileNotFoundError as exc:
        raise NotInstalledError(f"{path} is missing", Hint.DOWNLOAD) from exc
    except OSError as exc:
        raise IntegrityError(f"{path} cannot be read: {exc.strerror}") from exc
    progress.end(file.name)
    return digest.hexdigest()


def cached_files(snapshot: Path) -> list[CheckpointFile]:
    """Return the files of a snapshot in the Hugging Face cache, where links point to files named by their digests."""
    files = []
    for path in sorted(snapshot.iterdir()):
        if path.is_symlink() and (path.suffix in (".json", ".safetensors")):
            name = Path(os.readlink(path)).name
            if len(name) in _DIGEST_KINDS and all(letter in "0123456789abcdef" for letter in name):
                files.append(CheckpointFile(path.name, path.stat().st_size, Digest(_DIGEST_KINDS[len(name)], name)))
    return files
