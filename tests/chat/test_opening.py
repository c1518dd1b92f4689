"""The choice of a checkpoint, and its revision. tests/cli/test_opening.py opens models."""

import json
from pathlib import Path

import pytest

from gptoss_cli.chat import opening
from gptoss_cli.checkpoint.manifest import CheckpointFile, Digest, Manifest, write_manifest
from gptoss_cli.checkpoint.store import find_location
from gptoss_cli.errors import Hint


def _no_notice(text: str, *hints: Hint, subject: str = "") -> None:
    raise AssertionError(text)


def test_without_a_name_an_installed_model_is_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    for name, layers, experts in (("gpt-oss-120b", 36, 128), ("gpt-oss-20b", 24, 32)):
        folder = tmp_path / "data" / "checkpoints" / name
        folder.mkdir(parents=True)
        config = {"num_hidden_layers": layers, "num_local_experts": experts}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").touch()
        files = tuple(
            CheckpointFile(path.name, path.stat().st_size, Digest("sha256", "0" * 64)) for path in folder.iterdir()
        )
        write_manifest(folder / "manifest.json", Manifest(f"openai/{name}", "main", "a" * 40, files))
    assert opening.choose_checkpoint(None, _no_notice) == ("gpt-oss-20b", folder)


def test_the_revision_is_in_the_manifest_or_the_folder_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    location = find_location("20b")
    location.folder.mkdir(parents=True)
    files = (CheckpointFile("config.json", 2, Digest("sha256", "0" * 64)),)
    write_manifest(location.manifest_path, Manifest(location.repository, "main", "c0ffee" + "0" * 34, files))
    assert opening.revision_of(location.folder) == "c0ffee" + "0" * 34
    assert opening.revision_of(tmp_path / "snapshots" / ("ab" * 20)) == "ab" * 20
    assert opening.revision_of(tmp_path / "elsewhere") is None
