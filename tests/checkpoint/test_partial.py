"""A partial file counts the bytes that have arrived, and never too many."""

import errno
import os
from pathlib import Path

import pytest

from gptoss_cli.checkpoint import partial
from gptoss_cli.checkpoint.manifest import CheckpointFile, Digest
from gptoss_cli.checkpoint.partial import PartialFile, is_full, writing
from gptoss_cli.errors import Hint, ResourceError

_FILE = CheckpointFile("model.safetensors", 2_500, Digest("sha256", "b" * 64))


@pytest.fixture(autouse=True)
def _segments_of_1000_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "_SMALLEST_SEGMENT_BYTES", 1_000)


@pytest.fixture
def begun(tmp_path: Path) -> PartialFile:
    """A file of three segments: the first is complete, the second has 10 bytes."""
    file = PartialFile(tmp_path, _FILE)
    file.prepare()
    for segment, count in zip(file.segments, (1_000, 10), strict=False):
        with file.writer(segment) as writer:
            writer.write(b"x" * count)
    return file


def test_another_process_continues_where_each_segment_ended(begun: PartialFile, tmp_path: Path) -> None:
    again = PartialFile(tmp_path, _FILE)
    assert [segment.done_bytes for segment in again.segments] == [1_000, 10, 0]
    assert [segment.next_byte for segment in again.segments] == [1_000, 1_010, 2_000]
    assert (again.done_bytes, again.front_byte) == (1_010, 1_010)


def test_a_joined_file_keeps_the_bytes_before_the_first_gap(begun: PartialFile, tmp_path: Path) -> None:
    with begun.writer(begun.segments[2]) as writer:
        writer.write(b"x" * 500)
    begun.join()
    again = PartialFile(tmp_path, _FILE)
    assert [(segment.start_byte, segment.end_byte, segment.done_bytes) for segment in again.segments] == [
        (0, 2_500, 1_010)
    ]


@pytest.mark.parametrize("record", [b"", b"\0" * 40, b"\xff" * 40, b"x" * 7])
def test_an_inconsistent_record_counts_nothing(record: bytes, begun: PartialFile, tmp_path: Path) -> None:
    (tmp_path / f"{_FILE.digest.hex}.state").write_bytes(record)
    assert PartialFile(tmp_path, _FILE).done_bytes == 0


def test_data_of_another_size_counts_nothing(begun: PartialFile, tmp_path: Path) -> None:
    os.truncate(begun.data, 2_499)
    assert PartialFile(tmp_path, _FILE).done_bytes == 0


def test_a_finished_file_leaves_nothing_behind(begun: PartialFile, tmp_path: Path) -> None:
    begun.put_in_place(tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_removing_a_partial_file_twice_is_no_error(begun: PartialFile, tmp_path: Path) -> None:
    begun.remove()
    begun.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "full", "hint"),
    [(errno.ENOSPC, True, Hint.FREE_DISK_SPACE), (errno.EACCES, False, Hint.ANOTHER_DATA_FOLDER)],
)
def test_a_disk_error_is_named_with_a_hint(code: int, full: bool, hint: Hint, tmp_path: Path) -> None:
    with pytest.raises(ResourceError) as caught, writing(tmp_path / "file"):
        raise OSError(code, os.strerror(code))
    assert str(tmp_path) in str(caught.value)
    assert caught.value.hints == (hint,)
    assert is_full(caught.value) == full
