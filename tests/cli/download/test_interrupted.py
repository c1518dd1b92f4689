"""`gptoss download` interrupted, terminated, or run twice at once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gptoss_cli.checkpoint.lock import locked
from gptoss_cli.checkpoint.partial import PartialFile
from gptoss_cli.terminal.progress import FileProgress
from tests.checkpoint.hub_server import HubServer
from tests.checkpoint.repository import SHARD_BYTES
from tests.cli.conftest import Run
from tests.cli.download.conftest import FIRST, SECOND, Patch, is_complete, listed


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_ctrl_c_keeps_the_downloaded_part(share: float, run: Run, hub: HubServer, folder: Path) -> None:
    def interrupt() -> None:
        if hub.sent_bytes(FIRST) >= share * SHARD_BYTES:
            hub.pace = lambda: None
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    hub.pace = interrupt
    status, _, err = run("download")
    assert status == 130
    assert "The downloaded part is kept" in err
    assert not (folder / "manifest.json").exists()
    assert run("download")[0] == 0
    assert is_complete(folder, hub.files)


def test_sigterm_exits_143_and_keeps_the_downloaded_part(run: Run, hub: HubServer, folder: Path) -> None:
    hub.pace = lambda: os.kill(os.getpid(), signal.SIGTERM)
    assert run("download")[0] == 143
    hub.pace = lambda: None
    assert run("download")[0] == 0


def test_ctrl_c_while_a_file_gets_its_name_leaves_it_whole(
    run: Run, hub: HubServer, folder: Path, monkeypatch: Patch
) -> None:
    put_in_place = PartialFile.put_in_place

    def interrupted(self: PartialFile, target: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        put_in_place(self, target)

    monkeypatch.setattr(PartialFile, "put_in_place", interrupted)
    assert run("download")[0] == 130
    assert [path.name for path in folder.glob("*.json")] == ["config.json"]


def test_ctrl_c_while_digests_are_computed_exits_130(
    run: Run, hub: HubServer, folder: Path, monkeypatch: Patch
) -> None:
    run("download")
    monkeypatch.setattr(FileProgress, "begin", _interrupting(FileProgress.begin))
    assert run("download")[0] == 130
    assert is_complete(folder, hub.files)


def _interrupting(begin: Callable[..., None]) -> Callable[..., None]:
    def interrupted(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        begin(*arguments)

    return interrupted


def test_of_two_downloads_one_fetches_and_the_other_waits(run: Run, hub: HubServer, folder: Path) -> None:
    hub.pace = lambda: time.sleep(0.05)
    command = [sys.executable, "-m", "gptoss_cli", "download"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr is not None
        while "into " not in first.stderr.readline():
            pass
        status, _, err = run("download")
        assert first.wait() == 0
    assert status == 0
    assert "Another gptoss is downloading gpt-oss-20b" in err
    assert hub.sent_bytes(FIRST) == SHARD_BYTES


def test_a_model_that_is_being_downloaded_is_not_half_loaded(run: Run, hub: HubServer, folder: Path) -> None:
    hub.cut = lambda request: 0 if request.file == SECOND else None
    run("download")
    with locked(folder.parent / ".gpt-oss-20b.lock", waiting=lambda: None):
        status, _, err = run("ask", "-m", "20b", "x")
        assert listed(run)["gpt-oss-20b"]["state"] == "downloading"
        assert run("remove", "20b", "-y")[0] == 2
    assert status == 3
    assert "another gptoss is downloading it" in err
