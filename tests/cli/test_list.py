"""`gptoss list`: sizes and states of models."""

import json
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from gptoss_cli.checkpoint import catalog
from gptoss_cli.cli.list import _HEADINGS, _lines
from tests.checkpoint.repository import SHARDS
from tests.cli.conftest import Run
from tests.cli.installed_model import install_20b


@pytest.fixture
def folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of gpt-oss-20b, installed."""
    return install_20b(run, tmp_path, monkeypatch)


def test_the_known_models_are_listed_and_the_demo_with_them(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    status, out, err = run("list")
    assert (status, err) == (0, "")
    published = [model.name for model in catalog.MODELS]
    assert [line.split()[0] for line in out.splitlines()] == ["MODEL", *published]
    assert "13.8 GB  not downloaded" in out
    assert "comes with gptoss" in out


def test_an_installed_model_is_listed_with_its_folder(run: Run, folder: Path) -> None:
    assert "installed" in run("list")[1]
    (row, *_) = json.loads(run("list", "--json")[1])["models"]
    assert (row["state"], row["folder"], row["bytes"] > 3_000_000) == ("installed", str(folder), True)


def test_a_model_with_a_missing_file_is_incomplete(run: Run, folder: Path) -> None:
    (folder / SHARDS[0]).unlink()
    assert "incomplete, 1.5 MB here" in run("list")[1]


def test_a_model_with_a_broken_manifest_is_damaged(run: Run, folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")
    status, out, _ = run("list")
    assert status == 0
    assert "damaged" in out


@pytest.mark.parametrize("columns", [40, 60, 80, 100])
def test_a_list_on_a_narrow_terminal_names_everything(columns: int) -> None:
    table = [_HEADINGS, ("gpt-oss-20b", "13.8 GB", "installed", "yes, on the CPU", "2026-01-02", "/models/gpt-oss-20b")]
    lines = list(_lines(table, columns))
    assert max(map(len, lines)) <= columns
    for cell in table[1]:
        assert any(cell in line for line in lines)


def test_a_list_into_a_full_disk_exits_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "w")  # noqa: SIM115  closing it fails, as writing does
    monkeypatch.setattr(sys, "stdout", full)
    status, _, err = run("list")
    with suppress(OSError):
        full.close()
    assert status == 1
    assert "stdout cannot be written" in err
