"""The fingerprint of a checkpoint changes with its config and its shards, and with nothing else."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gptoss_cli.checkpoint.folder import fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}" + bytes(100))
    os.utime(tmp_path / "model.safetensors", ns=(10**18, 10**18))
    return tmp_path


def _config(folder: Path) -> None:
    (folder / "config.json").write_text('{"a": 1}')


def _time(folder: Path) -> None:
    os.utime(folder / "model.safetensors", ns=(10**18, 10**18 + 1))


def _size(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"x")
    os.utime(folder / "model.safetensors", ns=(10**18, 10**18))


def _header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"[]" + bytes(100))
    os.utime(folder / "model.safetensors", ns=(10**18, 10**18))


def test_the_fingerprint_ignores_other_files(folder: Path) -> None:
    before = fingerprint(folder)
    (folder / "README.md").write_text("text")
    assert fingerprint(folder) == before


@pytest.mark.parametrize("change", [_config, _time, _size, _header])
def test_the_fingerprint_changes_with_config_time_size_and_header(folder: Path, change: Callable[[Path], None]) -> None:
    before = fingerprint(folder)
    change(folder)
    assert fingerprint(folder) != before
