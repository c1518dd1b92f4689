"""Cache files are read without waiting and only if they are regular files; their use orders their deletion."""

import os
from pathlib import Path

import pytest

from gptoss_cli.cache_files import mark_used, read_file, remove_oldest


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file of three bytes."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    return path


def test_a_regular_file_of_an_acceptable_size_is_read(file: Path) -> None:
    assert read_file(file, min_bytes=3, max_bytes=3) == bytearray(b"abc")
    assert read_file(file, min_bytes=3, max_bytes=9, last_bytes=2) == bytearray(b"bc")
    assert read_file(file, min_bytes=4, max_bytes=9) is None
    assert read_file(file, min_bytes=0, max_bytes=2) is None
    assert read_file(file.with_name("missing"), min_bytes=0, max_bytes=9) is None


def test_links_pipes_folders_and_devices_are_not_read(file: Path, tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(file)
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path, Path("/dev/zero"), Path("/dev/null")):
        assert read_file(path, min_bytes=0, max_bytes=9) is None


def test_the_last_of_the_files_that_were_used_together_goes_first(file: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.write_bytes(b"abc")
    mark_used([file, second, tmp_path / "missing"])
    remove_oldest(tmp_path, 3)
    assert list(tmp_path.iterdir()) == [file]
