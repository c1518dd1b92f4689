"""An empty machine, and a local server in place of the Hub."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gptoss_cli.checkpoint import partial
from gptoss_cli.checkpoint.connection import Timeout
from gptoss_cli.checkpoint.transfer import RetryPolicy
from gptoss_cli.cli import download
from tests.checkpoint.hub_server import HubServer
from tests.checkpoint.repository import SHARDS, needed, repository_files
from tests.cli.conftest import Run

FIRST, SECOND = SHARDS
NO_HUB = "http://127.0.0.1:1"
Patch = pytest.MonkeyPatch


@pytest.fixture
def home(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Return GPTOSS_HOME on an empty machine; even a small file has several segments."""
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "gptoss"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(partial, "_SMALLEST_SEGMENT_BYTES", 400_000)
    hurried = RetryPolicy(listing=Timeout(20, 20), transfer=Timeout(20, 20), attempts=2, first_pause_seconds=0.01)
    monkeypatch.setattr(download, "retry_policy", lambda: hurried)
    return tmp_path / "gptoss"


@pytest.fixture
def folder(home: Path) -> Path:
    """Return the folder of gpt-oss-20b."""
    return home / "data" / "checkpoints" / "gpt-oss-20b"


@pytest.fixture
def hub(home: Path, monkeypatch: Patch) -> Iterator[HubServer]:
    """Start a server and make it the Hub."""
    with HubServer(repository_files()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


def is_complete(folder: Path, files: dict[str, bytes]) -> bool:
    """Return True if the folder holds the needed files of `files`, byte for byte, and nothing else."""
    names = {path.name for path in folder.iterdir()}
    right = all((folder / name).read_bytes() == data for name, data in needed(files).items())
    return right and names == {*needed(files), "manifest.json"}


def listed(run: Run) -> dict[str, Any]:
    """Return model -> its row in `gptoss list --json`."""
    status, out, _ = run("list", "--json")
    assert status == 0
    return {row["model"]: row for row in json.loads(out)["models"]}
