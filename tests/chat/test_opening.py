"""The choice of a checkpoint, and its revision. tests/cli/test_opening.py opens models."""

import json
from pathlib import Path

import pytest

from gptoss_cli.chat import opening
from gptoss_cli.chat.request import ChatRequest
from gptoss_cli.checkpoint.manifest import CheckpointFile, Digest, Manifest, write_manifest
from gptoss_cli.checkpoint.store import find_location
from gptoss_cli.errors import Hint, NotInstalledError
from gptoss_cli.placement.hardware import Hardware
from tests.placement.machines import gpu, machine


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


def _notices(machine: Hardware) -> tuple[str, tuple[Hint, ...], str]:
    """Return the one notice about a machine without a model."""
    given: list[tuple[str, tuple[Hint, ...], str]] = []
    opening.advise_download(machine, lambda text, *hints, subject="": given.append((text, hints, subject)))
    (notice,) = given
    return notice


@pytest.mark.parametrize(
    ("hardware", "fits", "best"),
    [
        (machine(gpu(24), ram=96), "20b fits on the GPU, 120b fits on GPU and CPU", "120b"),
        (machine(ram=32), "20b fits, 120b would run slowly, from disk", "20b"),
        (machine(ram=2, available=0.5), "20b does not fit, 120b does not fit", "20b"),
    ],
)
def test_without_any_model_it_is_said_what_fits_and_how_to_get_it(hardware: Hardware, fits: str, best: str) -> None:
    text = f"No model is installed: the built-in demo answers. On this machine {fits}"
    assert _notices(hardware) == (text, (Hint.DOWNLOAD,), best)


@pytest.mark.parametrize("instructions", [None, "A policy."])
def test_a_classifier_without_a_policy_is_announced(
    instructions: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[tuple[Hint, ...]] = []
    monkeypatch.setattr(opening, "choose_checkpoint", lambda model, notice: ("gpt-oss-safeguard-20b", tmp_path))
    with pytest.raises(NotInstalledError):
        opening.open_model(
            ChatRequest(model="safeguard", instructions=instructions),
            progress=lambda text: None,
            notice=lambda text, *hints, subject="": given.append(hints),
        )
    assert given == ([(Hint.POLICY,)] if instructions is None else [])
