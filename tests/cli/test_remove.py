"""`gptoss remove`: deleting models and broken downloads."""

import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.installed_model import install_20b
from tests.terminal.streams import KeptStream


@pytest.fixture
def folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of gpt-oss-20b, installed."""
    return install_20b(run, tmp_path, monkeypatch)


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
    status, _, err = run("remove", "20b", "-y")
    assert (status, err) == (3, "gptoss: gpt-oss-20b is not downloaded\n")


def test_partial_deletes_only_the_rest_of_a_broken_download(run: Run, folder: Path) -> None:
    assert run("remove", "20b", "--partial", "-y")[0] == 3
    (folder / ".partial").mkdir()
    (folder / ".partial" / f"{'a' * 64}.part").write_bytes(bytes(50_000))
    assert "of a broken download" in run("list")[1]
    assert run("remove", "20b", "--partial", "-y")[0] == 0
    assert not (folder / ".partial").exists()
    assert (folder / "manifest.json").exists()


def test_the_demo_cannot_be_removed(run: Run) -> None:
    assert run("remove", "demo", "-y")[0] == 2
