"""`gptoss download` on disks that are full, read-only or not empty."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.checkpoint.hub_server import HubServer
from tests.cli.conftest import Run
from tests.cli.download.conftest import FIRST, SECOND, Patch, is_complete


def test_leftovers_of_another_revision_are_deleted(run: Run, hub: HubServer, folder: Path) -> None:
    (folder / ".partial").mkdir(parents=True)
    (folder / ".partial" / f"{'a' * 64}.part").touch()
    assert run("download")[0] == 0
    assert is_complete(folder, hub.files)


@pytest.fixture
def small_disk(home: Path, tmp_path: Path, monkeypatch: Patch) -> Iterator[Path]:
    """Mount a disk of four megabytes and make it GPTOSS_HOME."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], capture_output=True).returncode:
        pytest.skip("only root may mount a tmpfs")
    monkeypatch.setenv("GPTOSS_HOME", str(disk))
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_without_room_exits_6_before_any_byte(run: Run, hub: HubServer, small_disk: Path) -> None:
    (small_disk / "other").write_bytes(bytes(2_000_000))
    for arguments in (["download"], ["download", "--dry-run"]):
        status, _, err = run(*arguments)
        assert status == 6
        assert "needs 3.0 MB more, and its disk has 2.2 MB free" in err
    assert not any(request.file for request in hub.requests)


def test_a_disk_that_fills_up_exits_6_and_keeps_the_whole_files(run: Run, hub: HubServer, small_disk: Path) -> None:
    filling = threading.Lock()

    def fill() -> None:  # by one of the server's threads at a time
        with filling, suppress(OSError), (small_disk / "other").open("ab", buffering=0) as other:
            while hub.pace is fill and hub.asked(SECOND):
                other.write(bytes(1 << 16))

    hub.pace = fill
    status, _, err = run("download")
    assert status == 6
    assert "is full" in err
    hub.pace = lambda: None
    with filling:
        (small_disk / "other").unlink()
    folder = small_disk / "data" / "checkpoints" / "gpt-oss-20b"
    assert (folder / FIRST).exists()
    assert list((folder / ".partial").glob("*.part")) == []
    assert run("download")[0] == 0


def test_a_disk_that_cannot_be_written_is_named(run: Run, hub: HubServer, small_disk: Path) -> None:
    assert run("download")[0] == 0
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    status, _, err = run("download", "120b")
    assert (status, err.count("\n")) == (6, 1)
    assert str(small_disk) in err
    assert run("download")[0] == 0
    assert run("verify", "--quick")[0] == 4  # noise is no safetensors file, but it is looked at


@pytest.mark.parametrize("name", ["with spaces", "mit Ümläuten 漢字", "new\nline", "x" * 200])
def test_a_folder_may_have_any_name(name: str, run: Run, hub: HubServer, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / name))
    assert run("download")[0] == 0


def test_a_file_where_the_folder_should_be_is_named(run: Run, hub: HubServer, home: Path) -> None:
    home.write_text("a file")
    status, _, err = run("download")
    assert status == 6
    assert str(home) in err
