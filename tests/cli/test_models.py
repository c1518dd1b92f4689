"""`gptoss list` and `gptoss remove`."""

import json
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.checkpoint.hub_server import HubServer
from tests.checkpoint.repository import SHARDS, repository_files
from tests.cli.conftest import Run
from tests.terminal.streams import KeptStream


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> Path:
    """gpt-oss-20b, installed."""
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    with HubServer(repository_files()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        assert run("download")[0] == 0
    return tmp_path / "data" / "checkpoints" / "gpt-oss-20b"


def test_the_known_models_are_listed_and_the_demo_with_them(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    status, out, err = run("list")
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["MODEL", "gpt-oss-20b", "gpt-oss-120b", "demo"]
    assert "13.8 GB  not downloaded" in out
    assert "comes with gptoss" in out


def test_an_installed_model_is_listed_with_its_place(run: Run, folder: Path) -> None:
    assert "installed" in run("list")[1]
    (row, *_) = json.loads(run("list", "--json")[1])["models"]
    assert (row["state"], row["folder"], row["bytes"] > 3_000_000) == ("installed", str(folder), True)


def test_a_model_that_lacks_a_file_is_incomplete(run: Run, folder: Path) -> None:
    (folder / SHARDS[0]).unlink()
    assert "incomplete, 1.5 MB here" in run("list")[1]


def test_a_broken_manifest_is_damage(run: Run, folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")
    status, out, _ = run("list")
    assert status == 0
    assert "damaged" in out


def test_a_list_into_a_full_disk_exits_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "w")  # noqa: SIM115  closing it fails, as writing does
    monkeypatch.setattr(sys, "stdout", full)
    status, _, err = run("list")
    with suppress(OSError):
        full.close()
    assert status == 1
    assert "stdout cannot be written" in err


def test_remove_asks_and_deletes_everything(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("remove", "20b")[0] == 2
    monkeypatch.setattr(sys, "stdin", KeptStream(terminal=True, text=b"\n"))
    status, _, err = run("remove", "20b")
    assert status == 130
    assert "Delete 3.0 MB in" in err
    assert folder.exists()
    monkeypatch.setattr(sys, "stdin", KeptStream(terminal=True, text=b"y\n"))
    assert run("remove", "20b")[0] == 0
    assert not folder.exists()
    assert run("remove", "20b", "-y")[0] == 3


def test_remove_partial_takes_only_what_a_broken_download_left(run: Run, folder: Path) -> None:
    assert run("remove", "20b", "--partial", "-y")[0] == 3
    (folder / ".partial").mkdir()
    (folder / ".partial" / f"{'a' * 64}.part").write_bytes(bytes(50_000))
    assert "of a broken download" in run("list")[1]
    assert run("remove", "20b", "--partial", "-y")[0] == 0
    assert not (folder / ".partial").exists()
    assert (folder / "manifest.json").exists()


def test_the_demo_cannot_be_removed(run: Run) -> None:
    assert run("remove", "demo", "-y")[0] == 2
