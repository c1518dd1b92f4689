"""A model that the program itself has downloaded, for tests of the commands that list and delete it."""

from pathlib import Path

import pytest

from tests.checkpoint.hub_server import HubServer
from tests.checkpoint.repository import repository_files
from tests.cli.conftest import Run


def install_20b(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Download a small gpt-oss-20b into `home`, which becomes GPTOSS_HOME; return its folder."""
    monkeypatch.setenv("GPTOSS_HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "hub"))
    with HubServer(repository_files()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        assert run("download")[0] == 0
    return home / "data" / "checkpoints" / "gpt-oss-20b"
