"""`gptoss download` against a small Hub that is honest, or not. Tables A and B of faults are produced for real."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gptoss_cli.checkpoint import partial
from gptoss_cli.checkpoint.lock import locked
from gptoss_cli.checkpoint.partial import PartialFile
from gptoss_cli.checkpoint.transfer import Patience
from gptoss_cli.cli import download
from gptoss_cli.terminal.progress import FileProgress
from tests.checkpoint.hub_server import COMMIT, LATER_COMMIT, Answer, HubServer, Request
from tests.checkpoint.repository import SHARD_BYTES, SHARDS, needed, repository_files
from tests.cli.conftest import Run

_TOKEN = "hf_secretsecretsecret"
_FIRST, _SECOND = SHARDS
_NO_HUB = "http://127.0.0.1:1"
_Patch = pytest.MonkeyPatch


@pytest.fixture
def home(tmp_path: Path, monkeypatch: _Patch) -> Path:
    """gptoss's own folder on an empty machine, and segments small enough for a small file to have several."""
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "gptoss"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(partial, "_SMALLEST_SEGMENT_BYTES", 400_000)
    hurried = Patience(connect_seconds=20, stall_seconds=20, attempts=2, first_pause_seconds=0.01)
    monkeypatch.setattr(download, "patience", lambda: hurried)
    return tmp_path / "gptoss"


@pytest.fixture
def folder(home: Path) -> Path:
    return home / "data" / "checkpoints" / "gpt-oss-20b"


@pytest.fixture
def hub(home: Path, monkeypatch: _Patch) -> Iterator[HubServer]:
    with HubServer(repository_files()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


def _is_complete(folder: Path, files: dict[str, bytes]) -> bool:
    names = {path.name for path in folder.iterdir()}
    right = all((folder / name).read_bytes() == data for name, data in needed(files).items())
    return right and names == {*needed(files), "manifest.json"}


def _listed(run: Run) -> dict[str, Any]:
    status, out, _ = run("list", "--json")
    assert status == 0
    return {row["model"]: row for row in json.loads(out)["models"]}


def test_a_download_fetches_what_is_needed_and_nothing_else(run: Run, hub: HubServer, folder: Path) -> None:
    status, out, err = run("download")
    assert (status, out) == (0, "")
    assert "gpt-oss-20b is complete" in err
    assert _is_complete(folder, hub.files)
    assert {request.file for request in hub.requests} - {""} == set(needed(hub.files))
    assert _listed(run)["gpt-oss-20b"]["state"] == "installed"


def test_a_large_file_comes_in_parts_and_no_byte_twice(run: Run, hub: HubServer, folder: Path) -> None:
    run("download")
    assert len(hub.asked(_FIRST)) == 4
    assert hub.sent_bytes(_FIRST) == SHARD_BYTES


def test_json_says_what_was_done(run: Run, hub: HubServer, folder: Path) -> None:
    status, out, _ = run("download", "20b", "--json")
    said = json.loads(out)
    assert status == 0
    assert (said["model"], said["commit"], said["folder"]) == ("gpt-oss-20b", COMMIT, str(folder))
    assert set(said["fetched"]) == set(needed(hub.files))


def test_another_repository_is_found_by_its_name(run: Run, home: Path, monkeypatch: _Patch) -> None:
    with HubServer(repository_files(), repository="someone/some-model") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        assert run("download", "someone/some-model")[0] == 0
    assert _listed(run)["someone--some-model"]["state"] == "installed"


# A. The network


def test_without_a_network_nothing_is_claimed(run: Run, home: Path, monkeypatch: _Patch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", _NO_HUB)
    status, out, err = run("download")
    assert (status, out) == (5, "")
    assert "127.0.0.1 cannot be reached" in err
    assert _listed(run)["gpt-oss-20b"]["state"] == "not downloaded"


def test_what_is_complete_needs_no_network(run: Run, hub: HubServer, monkeypatch: _Patch) -> None:
    run("download")
    hub.requests.clear()
    assert "already complete" in run("download")[2]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, _, err = run("download")
    assert status == 0
    assert "already complete (offline)" in err
    assert hub.requests == []


def test_offline_an_incomplete_model_exits_3_and_names_what_is_missing(
    run: Run, hub: HubServer, folder: Path, monkeypatch: _Patch
) -> None:
    run("download")
    (folder / _SECOND).unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, _, err = run("download")
    assert status == 3
    assert _SECOND in err
    monkeypatch.setenv("GPTOSS_HOME", str(folder))
    assert run("download")[0] == 3


def test_a_cut_connection_goes_on_where_it_was_cut(run: Run, hub: HubServer, folder: Path) -> None:
    cuts = [1_000, 70_000, 300_000]
    hub.cut = lambda request: cuts.pop() if cuts and request.file == _FIRST else None
    assert run("download")[0] == 0
    assert _is_complete(folder, hub.files)
    assert hub.sent_bytes(_FIRST) == SHARD_BYTES


def test_a_line_that_always_breaks_exits_5_and_keeps_what_is_whole(run: Run, hub: HubServer, folder: Path) -> None:
    hub.cut = lambda request: 100 if request.file == _SECOND else None
    status, _, err = run("download")
    assert status == 5
    assert _SECOND in err
    assert "3 times in a row" in err
    assert (folder / _FIRST).exists()
    assert not (folder / "manifest.json").exists()
    assert run("ask", "-m", "20b", "x")[0] == 3
    hub.cut = lambda request: None
    asked = len(hub.asked(_FIRST))
    assert run("download")[0] == 0
    assert len(hub.asked(_FIRST)) == asked


def test_a_server_without_ranges_sends_no_byte_twice_into_the_file(run: Run, hub: HubServer, folder: Path) -> None:
    hub.honours_range = False
    cuts = [500_000]
    hub.cut = lambda request: cuts.pop() if cuts and request.file == _SECOND else None
    assert run("download")[0] == 0
    assert _is_complete(folder, hub.files)


def test_a_stalled_line_is_tried_again_and_then_exits_5(
    run: Run, hub: HubServer, folder: Path, monkeypatch: _Patch
) -> None:
    impatient = Patience(connect_seconds=20, stall_seconds=0.3, attempts=1, first_pause_seconds=0.01)
    go_on = threading.Event()

    def stall() -> None:
        if hub.requests[-1].file in SHARDS:
            go_on.wait(60)

    run("download")
    (folder / _FIRST).unlink()
    monkeypatch.setattr(download, "patience", lambda: impatient)
    hub.pace = stall
    status, _, err = run("download")
    go_on.set()
    assert status == 5
    assert "2 times in a row" in err


def test_wrong_bytes_exit_4_and_only_that_file_is_fetched_again(run: Run, hub: HubServer, folder: Path) -> None:
    hub.wrong_bytes = {_SECOND}
    status, _, err = run("download")
    assert status == 4
    assert f"{_SECOND} came with the wrong digest" in err
    assert not (folder / _SECOND).exists()
    hub.wrong_bytes, asked = set(), len(hub.asked(_FIRST))
    assert run("download")[0] == 0
    assert len(hub.asked(_FIRST)) == asked
    assert _is_complete(folder, hub.files)


@pytest.mark.parametrize("change", [-7, 7])
def test_a_file_of_another_size_than_listed_is_refused(change: int, run: Run, hub: HubServer, folder: Path) -> None:
    body = bytes(SHARD_BYTES + change)
    headers = {"X-Repo-Commit": COMMIT}
    hub.fault = lambda request: Answer(200, headers, body) if request.file == _FIRST else None
    status, _, err = run("download")
    assert status == 4
    assert "were listed" in err
    assert not (folder / _FIRST).exists()


def test_a_body_shorter_than_it_says_is_not_accepted(run: Run, hub: HubServer, folder: Path) -> None:
    hub.honours_range = False
    hub.cut = lambda request: SHARD_BYTES - 1 if request.file == _FIRST else None
    assert run("download")[0] == 5
    assert not (folder / _FIRST).exists()


def test_a_stale_token_is_left_out_and_never_shown(run: Run, hub: HubServer, monkeypatch: _Patch, home: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", _TOKEN)
    hub.fault = lambda request: Answer(401) if "authorization" in map(str.lower, request.headers) else None
    status, out, err = run("--debug", "download")
    assert status == 0
    assert "rejects your token" in err
    assert _TOKEN not in out + err + _all_text(home)


def _all_text(folder: Path) -> str:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors")
    return "\n".join([*map(str, folder.rglob("*")), *(path.read_text("latin-1") for path in files)])


@pytest.mark.parametrize(
    ("answer", "arguments", "said"),
    [
        (Answer(403, {"X-Error-Code": "GatedRepo"}), [], "is not open to you"),
        (Answer(404, {"X-Error-Code": "RepoNotFound"}), [], "or is private"),
        (Answer(401), [], "or is private"),
        (None, ["--revision", "absent"], "There is no such revision"),
        (Answer(451), [], "answers 451"),
    ],
)
def test_each_refusal_has_its_own_message(
    answer: Answer | None, arguments: list[str], said: str, run: Run, hub: HubServer
) -> None:
    hub.fault = lambda request: answer
    status, _, err = run("download", *arguments)
    assert status == 5
    assert said in err
    assert err.count("\n") == 1


def test_a_file_that_is_gone_is_named(run: Run, hub: HubServer) -> None:
    gone = Answer(404, {"X-Error-Code": "EntryNotFound"})
    hub.fault = lambda request: gone if request.file == _SECOND else None
    status, _, err = run("download")
    assert status == 5
    assert f"There is no {_SECOND}" in err


@pytest.mark.parametrize("where", ["", _FIRST])
@pytest.mark.parametrize("busy", [Answer(429, {"Retry-After": "0"}), Answer(500), Answer(503)])
def test_a_busy_server_is_waited_for(busy: Answer, where: str, run: Run, hub: HubServer, folder: Path) -> None:
    refusals = [busy, busy]
    hub.fault = lambda request: refusals.pop() if refusals and request.file == where else None
    assert run("download")[0] == 0
    assert _is_complete(folder, hub.files)


@pytest.mark.parametrize("where", ["", _FIRST])
@pytest.mark.parametrize("busy", [Answer(503), Answer(429, {"Retry-After": "86400"})])
def test_a_server_that_stays_busy_exits_5(busy: Answer, where: str, run: Run, hub: HubServer) -> None:
    hub.fault = lambda request: busy if request.file == where else None
    status, _, err = run("download")
    assert status == 5
    assert f"answers {busy.status}" in err


@pytest.mark.parametrize("where", ["", "config.json", _FIRST])
def test_a_login_page_is_not_taken_for_the_hub(where: str, run: Run, hub: HubServer, folder: Path) -> None:
    page = Answer(200, {"Content-Type": "text/html"}, b"<html>Accept our terms</html>")
    hub.fault = lambda request: page if request.file == where else None
    status, _, err = run("download")
    assert status == 5
    assert "does not answer as the Hub does" in err
    assert not (folder / _FIRST).exists()


def test_a_redirect_to_a_login_page_is_not_followed(run: Run, hub: HubServer) -> None:
    away = Answer(302, {"Location": "http://localhost:1/login"})
    hub.fault = lambda request: away if request.file == _FIRST else None
    status, _, err = run("download")
    assert status == 5
    assert "does not answer as the Hub does" in err


@pytest.mark.parametrize(
    ("variables", "cause"),
    [
        ({"HTTP_PROXY": "http://me:proxy-password@127.0.0.1:1"}, "refused"),
        ({"HF_ENDPOINT": "https"}, "SSL"),
    ],
)
def test_a_proxy_or_tls_failure_is_said_with_its_cause(
    variables: dict[str, str], cause: str, run: Run, hub: HubServer, monkeypatch: _Patch
) -> None:
    from huggingface_hub import close_session

    for name, value in variables.items():
        monkeypatch.setenv(name, hub.address.replace("http:", "https:") if value == "https" else value)
    close_session()  # the library reads proxies once
    status, _, err = run("--debug", "download")
    close_session()
    assert status == 5
    assert cause in err
    assert "proxy-password" not in err


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_ctrl_c_keeps_what_has_arrived(share: float, run: Run, hub: HubServer, folder: Path) -> None:
    def interrupt() -> None:
        if hub.sent_bytes(_FIRST) >= share * SHARD_BYTES:
            hub.pace = lambda: None
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    hub.pace = interrupt
    status, _, err = run("download")
    assert status == 130
    assert "What has arrived is kept" in err
    assert not (folder / "manifest.json").exists()
    assert run("download")[0] == 0
    assert _is_complete(folder, hub.files)


def test_sigterm_exits_143_and_keeps_what_has_arrived(run: Run, hub: HubServer, folder: Path) -> None:
    hub.pace = lambda: os.kill(os.getpid(), signal.SIGTERM)
    assert run("download")[0] == 143
    hub.pace = lambda: None
    assert run("download")[0] == 0


def test_ctrl_c_while_a_file_gets_its_name_leaves_it_whole(
    run: Run, hub: HubServer, folder: Path, monkeypatch: _Patch
) -> None:
    put_in_place = PartialFile.put_in_place

    def interrupted(self: PartialFile, target: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        put_in_place(self, target)

    monkeypatch.setattr(PartialFile, "put_in_place", interrupted)
    assert run("download")[0] == 130
    assert [path.name for path in folder.glob("*.json")] == ["config.json"]


def test_ctrl_c_while_digests_are_computed_exits_130(
    run: Run, hub: HubServer, folder: Path, monkeypatch: _Patch
) -> None:
    run("download")
    monkeypatch.setattr(FileProgress, "begin", _interrupting(FileProgress.begin))
    assert run("download")[0] == 130
    assert _is_complete(folder, hub.files)


def _interrupting(begin: Callable[..., None]) -> Callable[..., None]:
    def interrupted(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        begin(*arguments)

    return interrupted


def test_leftovers_of_another_revision_are_swept_away(run: Run, hub: HubServer, folder: Path) -> None:
    (folder / ".partial").mkdir(parents=True)
    (folder / ".partial" / f"{'a' * 64}.part").touch()
    assert run("download")[0] == 0
    assert _is_complete(folder, hub.files)


def test_of_two_downloads_one_fetches_and_the_other_waits(run: Run, hub: HubServer, folder: Path) -> None:
    hub.pace = lambda: time.sleep(0.05)
    command = [sys.executable, "-m", "gptoss_cli", "download"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr is not None
        while "into " not in first.stderr.readline():
            pass
        status, _, err = run("download")
        assert first.wait() == 0
    assert status == 0
    assert "Another gptoss is downloading gpt-oss-20b" in err
    assert hub.sent_bytes(_FIRST) == SHARD_BYTES


def test_a_model_that_is_being_downloaded_is_not_half_loaded(run: Run, hub: HubServer, folder: Path) -> None:
    hub.cut = lambda request: 0 if request.file == _SECOND else None
    run("download")
    with locked(folder.parent / ".gpt-oss-20b.lock", waiting=lambda: None):
        status, _, err = run("ask", "-m", "20b", "x")
        assert _listed(run)["gpt-oss-20b"]["state"] == "downloading"
        assert run("remove", "20b", "-y")[0] == 2
    assert status == 3
    assert "another gptoss is downloading it" in err


def test_the_token_does_not_follow_a_redirect_and_no_signature_is_kept(
    run: Run, hub: HubServer, home: Path, folder: Path, monkeypatch: _Patch
) -> None:
    monkeypatch.setenv("HF_TOKEN", _TOKEN)
    with HubServer(hub.files) as store:
        hub.redirect = store.store
        status, out, err = run("--debug", "download")
    assert status == 0
    assert all("Authorization" in request.headers for request in hub.requests if request.file)
    assert not any("Authorization" in request.headers for request in store.requests)
    assert len(hub.asked(_FIRST)) == 1  # the address is used for every part
    for secret in (_TOKEN, "secret-signature"):
        assert secret not in out + err + _all_text(home)


def test_an_address_that_has_run_out_is_asked_for_again(run: Run, hub: HubServer, folder: Path) -> None:
    with HubServer(hub.files) as store:
        hub.redirect = store.store
        refusals = [Answer(403)]
        store.fault = lambda request: refusals.pop() if refusals and request.file == _SECOND else None
        assert run("download")[0] == 0
    assert _is_complete(folder, hub.files)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/x.safetensors", "C:\\x.safetensors", "\\\\host\\x.safetensors", "a/../../x"]
)
def test_a_listing_that_leads_out_of_its_folder_is_refused(name: str, run: Run, hub: HubServer, home: Path) -> None:
    hub.listed = [*hub.listing()["siblings"], {"rfilename": name, "size": 1, "blobId": "a" * 40}]
    status, _, err = run("download")
    assert status == 4
    assert "leads out of its folder" in err
    assert not any(path.is_file() and path.stat().st_size for path in home.rglob("*"))


def test_a_moved_revision_does_not_mix_with_what_is_here(run: Run, hub: HubServer, folder: Path) -> None:
    hub.cut = lambda request: 0 if request.file == _SECOND else None
    run("download")
    hub.cut = lambda request: None
    first = hub.files
    hub.files, hub.commit = repository_files(seed=1), LATER_COMMIT
    assert run("download")[0] == 4  # the commit of the first run is asked for, and this server no longer has it
    hub.files, hub.commit = first, COMMIT
    assert run("download")[0] == 0
    hub.files, hub.commit = repository_files(seed=1), LATER_COMMIT
    assert run("download")[0] == 0
    assert _is_complete(folder, first)
    status, _, err = run("download", "--revision", "main")
    assert status == 0
    assert LATER_COMMIT[:12] in err
    assert COMMIT[:12] in err
    assert _is_complete(folder, hub.files)


def test_a_dry_run_writes_nothing(run: Run, hub: HubServer, home: Path) -> None:
    status, out, err = run("download", "--dry-run")
    assert status == 0
    assert "3.0 MB  to fetch in all" in out
    assert "are free" in err
    assert not any(request.file for request in hub.requests)
    assert not home.exists()
    assert json.loads(run("download", "--dry-run", "--json")[1])["missing"][0] == "config.json"


def test_a_time_in_the_future_does_not_make_a_wrong_file_right(run: Run, hub: HubServer, folder: Path) -> None:
    run("download")
    (folder / _FIRST).write_bytes(bytes(SHARD_BYTES))
    os.utime(folder / _FIRST, (4e9, 4e9))
    status, _, err = run("download")
    assert status == 0
    assert f"{_FIRST} was wrong" in err
    assert _is_complete(folder, hub.files)


def test_a_broken_manifest_is_written_anew(run: Run, hub: HubServer, folder: Path) -> None:
    run("download")
    (folder / "manifest.json").write_text("{")
    assert run("ask", "-m", "20b", "x")[0] == 4
    asked = len(hub.asked(_FIRST))
    assert run("download")[0] == 0
    assert len(hub.asked(_FIRST)) == asked


def test_an_index_that_names_other_shards_is_refused(run: Run, hub: HubServer, folder: Path) -> None:
    hub.files["model.safetensors.index.json"] = b'{"weight_map": {"tensor": "absent.safetensors"}}'
    status, _, err = run("download")
    assert status == 4
    assert "absent.safetensors" in err
    assert not (folder / "manifest.json").exists()


def test_the_demo_is_nothing_to_download(run: Run, home: Path) -> None:
    assert run("download", "demo")[0] == 2
    assert run("download", "30b")[0] == 2


# B. The disk


@pytest.fixture
def small_disk(home: Path, tmp_path: Path, monkeypatch: _Patch) -> Iterator[Path]:
    """A disk of four megabytes, on which gptoss has its folder."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], capture_output=True).returncode:
        pytest.skip("only root may mount a tmpfs")
    monkeypatch.setenv("GPTOSS_HOME", str(disk))
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_without_room_exits_6_before_any_byte(run: Run, hub: HubServer, small_disk: Path) -> None:
    (small_disk / "other").write_bytes(bytes(2_000_000))
    for arguments in (["download"], ["download", "--dry-run"]):
        status, _, err = run(*arguments)
        assert status == 6
        assert "needs 3.0 MB more, and its disk has 2.2 MB free" in err
    assert not any(request.file for request in hub.requests)


def test_a_disk_that_fills_up_exits_6_and_keeps_the_whole_files(run: Run, hub: HubServer, small_disk: Path) -> None:
    def fill() -> None:
        if hub.asked(_SECOND):
            hub.pace = lambda: None
            with (small_disk / "other").open("wb", buffering=0) as other, suppress(OSError):
                while other.write(bytes(1 << 16)):
                    pass

    hub.pace = fill
    status, _, err = run("download")
    assert status == 6
    assert "is full" in err
    (small_disk / "other").unlink()
    folder = small_disk / "data" / "checkpoints" / "gpt-oss-20b"
    assert (folder / _FIRST).exists()
    assert list((folder / ".partial").glob("*.part")) == []
    assert run("download")[0] == 0


def test_a_disk_that_cannot_be_written_is_named(run: Run, hub: HubServer, small_disk: Path) -> None:
    assert run("download")[0] == 0
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    status, _, err = run("download", "120b")
    assert (status, err.count("\n")) == (6, 1)
    assert str(small_disk) in err
    assert run("download")[0] == 0
    assert run("verify", "--quick")[0] == 4  # noise is no safetensors file, but it is looked at


@pytest.mark.parametrize("name", ["with spaces", "mit Ümläuten 漢字", "new\nline", "x" * 200])
def test_a_folder_may_have_any_name(name: str, run: Run, hub: HubServer, tmp_path: Path, monkeypatch: _Patch) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / name))
    assert run("download")[0] == 0


def test_a_file_where_the_folder_should_be_is_named(run: Run, hub: HubServer, home: Path) -> None:
    home.write_text("a file")
    status, _, err = run("download")
    assert status == 6
    assert str(home) in err


def test_what_is_complete_in_the_hugging_face_cache_is_not_fetched(run: Run, hub: HubServer, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    for name in needed(hub.files):
        hf_hub_download(
            "openai/gpt-oss-20b", name, endpoint=hub.address, cache_dir=tmp_path / "hub" / "hub", token=False
        )
    hub.requests.clear()
    status, _, err = run("download")
    assert status == 0
    assert "is used where it lies" in err
    assert hub.requests == []
    assert _listed(run)["gpt-oss-20b"]["state"] == "in the Hugging Face cache"
    assert run("remove", "20b", "-y")[0] == 2


def test_a_request_knows_its_file() -> None:
    assert Request("GET", "/a/b/resolve/c/d.json", {}).file == "d.json"
