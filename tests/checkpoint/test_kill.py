"""A download that is killed at any moment continues from there."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.checkpoint.hub_server import HubServer, pieces_per_second

_FILE = "model.safetensors"
_FILE_BYTES = 24 << 20
_PIECE_BYTES = 64 << 10
_ALLOWED_BYTES = max(_FILE_BYTES // 100, 4 << 20)


def _fetched_again(kills: int, seconds: float, home: Path) -> int:
    """Return the bytes that are sent twice for a download that is killed `kills` times, each within `seconds`."""
    moments = random.Random(7)
    data = moments.randbytes(_FILE_BYTES)
    with HubServer({"config.json": b"{}", _FILE: data}, repository="some/model") as hub:
        own = {"HF_ENDPOINT": hub.address, "GPTOSS_HOME": str(home), "HF_HOME": str(home / "hub")}
        command = [sys.executable, "-m", "gptoss_cli", "download", "some/model"]
        # So slow that the download outlasts all kills.
        hub.pace = pieces_per_second(_FILE_BYTES / _PIECE_BYTES / (kills * seconds * 0.7))
        for _ in range(kills):
            with subprocess.Popen(command, env=os.environ | own, stderr=subprocess.DEVNULL) as process:
                before = hub.sent_bytes(_FILE)
                while hub.sent_bytes(_FILE) == before and process.poll() is None:
                    time.sleep(0.01)
                time.sleep(moments.random() * seconds)
                process.send_signal(signal.SIGKILL)
        hub.pace = lambda: None
        done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        folder = home / "data" / "checkpoints" / "some--model"
        assert hashlib.sha256((folder / _FILE).read_bytes()).digest() == hashlib.sha256(data).digest()
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "manifest.json", _FILE]
        return hub.sent_bytes(_FILE) - _FILE_BYTES


def test_a_killed_download_continues_where_it_was(tmp_path: Path) -> None:
    assert _fetched_again(2, 0.3, tmp_path) <= 2 * _ALLOWED_BYTES


@pytest.mark.slow
def test_a_hundred_kills_cost_little(tmp_path: Path) -> None:
    again = _fetched_again(100, 0.3, tmp_path)
    print(f"fetched again after 100 kills: {again:,} bytes")
    assert again <= 100 * _ALLOWED_BYTES
