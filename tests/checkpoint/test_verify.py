"""Verifying files by their digests."""

import hashlib
import threading
from pathlib import Path

import pytest

from gptoss_cli.checkpoint.manifest import CheckpointFile, Digest
from gptoss_cli.checkpoint.verify import cached_files, find_wrong_files
from gptoss_cli.errors import NotInstalledError
from tests.checkpoint.hub_server import git_sha1
from tests.checkpoint.progress import RecordedProgress

_CONTENTS = {"config.json": b"{}", "a.safetensors": b"a" * 3_000_000, "b.safetensors": b"b" * 10}


@pytest.fixture
def files(tmp_path: Path) -> list[CheckpointFile]:
    """Three files in `tmp_path`, the first with a digest of git."""
    for name, data in _CONTENTS.items():
        (tmp_path / name).write_bytes(data)
    return [CheckpointFile(name, len(data), _digest(name, data)) for name, data in _CONTENTS.items()]


def _digest(name: str, data: bytes) -> Digest:
    if name.endswith(".json"):
        return Digest("git-sha1", git_sha1(data))
    return Digest("sha256", hashlib.sha256(data).hexdigest())


def test_right_files_are_read_in_full(files: list[CheckpointFile], tmp_path: Path) -> None:
    progress = RecordedProgress()
    assert find_wrong_files(tmp_path, files, progress, threading.Event()) == {}
    assert progress.done_bytes == {name: len(data) for name, data in _CONTENTS.items()}
    assert sorted(progress.ended) == sorted(_CONTENTS)


def test_a_flipped_bit_is_found_and_the_digest_returned(files: list[CheckpointFile], tmp_path: Path) -> None:
    flipped = b"\x62" * 9 + b"\x63"
    (tmp_path / "b.safetensors").write_bytes(flipped)
    wrong = find_wrong_files(tmp_path, files, RecordedProgress(), threading.Event())
    assert wrong == {"b.safetensors": hashlib.sha256(flipped).hexdigest()}


def test_a_missing_file_is_named(files: list[CheckpointFile], tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(NotInstalledError, match=r"a\.safetensors is missing"):
        find_wrong_files(tmp_path, files, RecordedProgress(), threading.Event())


def test_a_stopped_verification_has_no_result(files: list[CheckpointFile], tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        find_wrong_files(tmp_path, files, RecordedProgress(), stop)


def test_the_digests_of_a_cached_snapshot_are_the_names_of_its_blobs(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    for name, digest in {"config.json": "a" * 40, "x.safetensors": "b" * 64, "README.md": "c" * 40}.items():
        (blobs / digest).write_bytes(b"12345")
        (snapshot / name).symlink_to(blobs / digest)
    (snapshot / "y.safetensors").write_bytes(b"not a link")
    assert cached_files(snapshot) == [
        CheckpointFile("config.json", 5, Digest("git-sha1", "a" * 40)),
        CheckpointFile("x.safetensors", 5, Digest("sha256", "b" * 64)),
    ]
