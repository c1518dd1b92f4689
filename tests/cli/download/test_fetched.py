"""`gptoss download` without faults: downloaded files, messages, and files that are left alone."""

import json
from dataclasses import replace
from pathlib import Path

from gptoss_cli import settings
from gptoss_cli.placement import hardware
from gptoss_cli.settings import Execution
from tests.checkpoint.hub_server import COMMIT, HubServer, Request
from tests.checkpoint.repository import SHARD_BYTES, needed, repository_files
from tests.cli.conftest import Run
from tests.cli.download.conftest import FIRST, Patch, is_complete, listed


def test_a_download_fetches_the_needed_files_and_nothing_else(run: Run, hub: HubServer, folder: Path) -> None:
    status, out, err = run("download")
    assert (status, out) == (0, "")
    assert "gpt-oss-20b is complete" in err
    assert is_complete(folder, hub.files)
    assert {request.file for request in hub.requests} - {""} == set(needed(hub.files))
    assert listed(run)["gpt-oss-20b"]["state"] == "installed"


def test_a_large_file_comes_in_parts_and_no_byte_twice(run: Run, hub: HubServer, folder: Path) -> None:
    run("download")
    assert len(hub.asked(FIRST)) == 4
    assert hub.sent_bytes(FIRST) == SHARD_BYTES


def test_json_reports_the_downloaded_files(run: Run, hub: HubServer, folder: Path) -> None:
    status, out, _ = run("download", "20b", "--json")
    outcome = json.loads(out)
    assert status == 0
    assert (outcome["model"], outcome["commit"], outcome["folder"]) == ("gpt-oss-20b", COMMIT, str(folder))
    assert set(outcome["fetched"]) == set(needed(hub.files))


def test_another_repository_is_found_by_its_name(run: Run, home: Path, monkeypatch: Patch) -> None:
    with HubServer(repository_files(), repository="someone/some-model") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        assert run("download", "someone/some-model")[0] == 0
    assert listed(run)["someone/some-model"]["state"] == "installed"


def test_a_dry_run_writes_nothing(run: Run, hub: HubServer, home: Path) -> None:
    status, out, err = run("download", "--dry-run")
    assert status == 0
    assert "3.0 MB  to download in total" in out
    assert " free\n" in err
    assert not any(request.file for request in hub.requests)
    assert not home.exists()
    outcome = json.loads(run("download", "--dry-run", "--json")[1])
    assert outcome["missing"][0] == "config.json"
    assert outcome["outlook"]["execution"] in list(Execution)


def test_the_placement_is_shown_before_anything_is_downloaded(run: Run, hub: HubServer, monkeypatch: Patch) -> None:
    here = hardware.detect(settings.data_folder())
    monkeypatch.setattr(hardware, "detect", lambda folder: replace(here, available_bytes=64 << 30, gpus=()))
    assert "It will run on the CPU with 131,072 tokens" in run("download", "--dry-run")[2]
    monkeypatch.setattr(hardware, "detect", lambda folder: replace(here, available_bytes=1 << 20, gpus=()))
    status, _, err = run("download", "--dry-run")
    assert status == 0
    assert "It will run" not in err
    assert "Host memory lacks" in err


def test_the_demo_cannot_be_downloaded(run: Run, home: Path) -> None:
    assert run("download", "demo")[0] == 2
    assert run("download", "30b")[0] == 2


def test_a_complete_copy_in_the_hugging_face_cache_is_not_downloaded(run: Run, hub: HubServer, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    for name in needed(hub.files):
        hf_hub_download(
            "openai/gpt-oss-20b", name, endpoint=hub.address, cache_dir=tmp_path / "hub" / "hub", token=False
        )
    hub.requests.clear()
    status, _, err = run("download")
    assert status == 0
    assert "is used from there" in err
    assert hub.requests == []
    assert listed(run)["gpt-oss-20b"]["state"] == "in the Hugging Face cache"
    assert run("remove", "20b", "-y")[0] == 2


def test_a_request_of_the_test_server_knows_its_file() -> None:
    assert Request("GET", "/a/b/resolve/c/d.json", {}).file == "d.json"
