"""`gptoss download` trusts digests and nothing else, and keeps secrets."""

import os
from pathlib import Path

import pytest

from tests.checkpoint.hub_server import COMMIT, LATER_COMMIT, Answer, HubServer
from tests.checkpoint.repository import SHARD_BYTES, repository_files
from tests.cli.conftest import Run
from tests.cli.download.conftest import FIRST, SECOND, Patch, is_complete

TOKEN = "hf_secretsecretsecret"


def test_wrong_bytes_exit_4_and_only_that_file_is_fetched_again(run: Run, hub: HubServer, folder: Path) -> None:
    hub.wrong_bytes = {SECOND}
    status, _, err = run("download")
    assert status == 4
    assert f"{SECOND} arrived with the wrong digest" in err
    assert not (folder / SECOND).exists()
    hub.wrong_bytes, asked = set(), len(hub.asked(FIRST))
    assert run("download")[0] == 0
    assert len(hub.asked(FIRST)) == asked
    assert is_complete(folder, hub.files)


@pytest.mark.parametrize("change", [-7, 7])
def test_a_file_of_another_size_than_listed_is_refused(change: int, run: Run, hub: HubServer, folder: Path) -> None:
    body = bytes(SHARD_BYTES + change)
    headers = {"X-Repo-Commit": COMMIT}
    hub.fault = lambda request: Answer(200, headers, body) if request.file == FIRST else None
    status, _, err = run("download")
    assert status == 4
    assert "were listed" in err
    assert not (folder / FIRST).exists()


def test_a_stale_token_is_left_out_and_never_shown(run: Run, hub: HubServer, monkeypatch: Patch, home: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.fault = lambda request: Answer(401) if "authorization" in map(str.lower, request.headers) else None
    status, out, err = run("--debug", "download")
    assert status == 0
    assert "rejects your token" in err
    assert TOKEN not in out + err + _all_text(home)


def _all_text(folder: Path) -> str:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors")
    return "\n".join([*map(str, folder.rglob("*")), *(path.read_text("latin-1") for path in files)])


def test_a_file_that_is_gone_is_named(run: Run, hub: HubServer) -> None:
    gone = Answer(404, {"X-Error-Code": "EntryNotFound"})
    hub.fault = lambda request: gone if request.file == SECOND else None
    status, _, err = run("download")
    assert status == 5
    assert f"There is no {SECOND}" in err


def test_the_token_does_not_follow_a_redirect_and_no_signature_is_kept(
    run: Run, hub: HubServer, home: Path, folder: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with HubServer(hub.files) as store:
        hub.redirect = store.store
        status, out, err = run("--debug", "download")
    assert status == 0
    assert all("Authorization" in request.headers for request in hub.requests if request.file)
    assert not any("Authorization" in request.headers for request in store.requests)
    assert len(hub.asked(FIRST)) == 1  # the address is used for every part
    for secret in (TOKEN, "secret-signature"):
        assert secret not in out + err + _all_text(home)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/x.safetensors", "C:\\x.safetensors", "\\\\host\\x.safetensors", "a/../../x"]
)
def test_a_listing_that_leads_out_of_its_folder_is_refused(name: str, run: Run, hub: HubServer, home: Path) -> None:
    hub.listed = [*hub.listing()["siblings"], {"rfilename": name, "size": 1, "blobId": "a" * 40}]
    status, _, err = run("download")
    assert status == 4
    assert "leads out of its folder" in err
    assert not any(path.is_file() and path.stat().st_size for path in home.rglob("*"))


def test_a_moved_revision_does_not_mix_with_the_files_that_are_here(run: Run, hub: HubServer, folder: Path) -> None:
    hub.cut = lambda request: 0 if request.file == SECOND else None
    run("download")
    hub.cut = lambda request: None
    first = hub.files
    hub.files, hub.commit = repository_files(seed=1), LATER_COMMIT
    assert run("download")[0] == 4  # the commit of the first run is asked for, and this server no longer has it
    hub.files, hub.commit = first, COMMIT
    assert run("download")[0] == 0
    hub.files, hub.commit = repository_files(seed=1), LATER_COMMIT
    assert run("download")[0] == 0
    assert is_complete(folder, first)
    status, _, err = run("download", "--revision", "main")
    assert status == 0
    assert LATER_COMMIT[:12] in err
    assert COMMIT[:12] in err
    assert is_complete(folder, hub.files)


def test_a_time_in_the_future_does_not_make_a_wrong_file_right(run: Run, hub: HubServer, folder: Path) -> None:
    run("download")
    (folder / FIRST).write_bytes(bytes(SHARD_BYTES))
    os.utime(folder / FIRST, (4e9, 4e9))
    status, _, err = run("download")
    assert status == 0
    assert f"{FIRST} was wrong" in err
    assert is_complete(folder, hub.files)


def test_a_broken_manifest_is_written_again(run: Run, hub: HubServer, folder: Path) -> None:
    run("download")
    (folder / "manifest.json").write_text("{")
    assert run("ask", "-m", "20b", "x")[0] == 4
    asked = len(hub.asked(FIRST))
    assert run("download")[0] == 0
    assert len(hub.asked(FIRST)) == asked


def test_an_index_that_names_other_shards_is_refused(run: Run, hub: HubServer, folder: Path) -> None:
    hub.files["model.safetensors.index.json"] = b'{"weight_map": {"tensor": "absent.safetensors"}}'
    status, _, err = run("download")
    assert status == 4
    assert "absent.safetensors" in err
    assert not (folder / "manifest.json").exists()
