"""The folders of files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gptoss_cli import settings


def test_gptoss_home_has_every_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    folders = [settings.data_folder(), settings.cache_folder(), settings.state_folder(), settings.config_folder()]
    assert folders == [tmp_path / kind for kind in ("data", "cache", "state", "config")]


def test_a_tilde_in_gptoss_home_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GPTOSS_HOME", "~/here")
    assert settings.data_folder() == tmp_path / "here" / "data"


@pytest.mark.parametrize(
    ("variable", "find"),
    [
        ("XDG_DATA_HOME", settings.data_folder),
        ("XDG_CACHE_HOME", settings.cache_folder),
        ("XDG_STATE_HOME", settings.state_folder),
        ("XDG_CONFIG_HOME", settings.config_folder),
    ],
)
def test_without_gptoss_home_the_xdg_folders_are_used(
    variable: str, find: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GPTOSS_HOME")
    monkeypatch.setenv(variable, str(tmp_path))
    assert find() == tmp_path / "gptoss"


def test_finding_a_folder_creates_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "absent"))
    settings.state_folder()
    assert not (tmp_path / "absent").exists()
