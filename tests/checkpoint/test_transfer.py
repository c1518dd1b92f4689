"""The transfer of one file; tests/cli/download has the failures of networks and servers."""

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptoss_cli.checkpoint.connection import Timeout
from gptoss_cli.checkpoint.hub import Hub
from gptoss_cli.checkpoint.partial import PartialFile
from gptoss_cli.checkpoint.transfer import RetryPolicy, TransferContext, fetch_file
from gptoss_cli.errors import Hint, IntegrityError
from tests.checkpoint.hub_server import HubServer
from tests.checkpoint.progress import RecordedProgress

_NAME, _DATA = "model.safetensors", bytes(range(256)) * 2_000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer({_NAME: _DATA}, repository="some/model") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


@pytest.fixture
def context(server: HubServer) -> TransferContext:
    hub = Hub(listing=Timeout(20, 20), transfer=Timeout(20, 20), notice=pytest.fail)
    policy = RetryPolicy(attempts=2, first_pause_seconds=0.01)
    return TransferContext(hub, hub.listing("some/model", None), policy, RecordedProgress(), threading.Event())


def test_a_file_arrives_with_its_digest(context: TransferContext, tmp_path: Path) -> None:
    (file,) = context.manifest.files
    fetch_file(context, file, folder=tmp_path, target=tmp_path / _NAME)
    assert (tmp_path / _NAME).read_bytes() == _DATA
    assert file.digest.hex == hashlib.sha256(_DATA).hexdigest()


def test_wrong_bytes_of_an_earlier_run_are_downloaded_again(
    context: TransferContext, server: HubServer, tmp_path: Path
) -> None:
    (file,) = context.manifest.files
    earlier = PartialFile(tmp_path, file)
    earlier.prepare()
    with earlier.writer(earlier.segments[0]) as writer:
        writer.write(b"wrong bytes")
    fetch_file(context, file, folder=tmp_path, target=tmp_path / _NAME)
    assert (tmp_path / _NAME).read_bytes() == _DATA
    expected = 2 * len(_DATA) - len(b"wrong bytes")
    # The server counts a piece after it was sent: the file may be complete a moment earlier.
    deadline = time.monotonic() + 10
    while server.sent_bytes(_NAME) < expected and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.sent_bytes(_NAME) == expected


def test_wrong_bytes_of_the_server_are_an_error(context: TransferContext, server: HubServer, tmp_path: Path) -> None:
    server.wrong_bytes = {_NAME}
    with pytest.raises(IntegrityError, match="arrived with the wrong digest") as caught:
        fetch_file(context, context.manifest.files[0], folder=tmp_path, target=tmp_path / _NAME)
    assert caught.value.hints == (Hint.RETRY,)
    assert list(tmp_path.iterdir()) == []


def test_pauses_double_and_are_as_long_as_the_server_asks() -> None:
    policy = RetryPolicy(first_pause_seconds=1.0)
    assert [policy.pause_seconds(failures, None) for failures in (1, 2, 3)] == [1.0, 2.0, 4.0]
    assert policy.pause_seconds(1, 30.0) == 30.0
    assert policy.pause_seconds(7, 30.0) == 64.0
