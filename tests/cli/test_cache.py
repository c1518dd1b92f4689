"""`gptoss cache`: KV caches and 8-bit weights are listed and deleted."""

import json
import os
import sys
from pathlib import Path

import pytest

from gptoss_cli import settings
from gptoss_cli.cache_files import forget, int8_folder, kv_folder, list_cache, remove_oldest
from gptoss_cli.cli.cache import run_cache
from gptoss_cli.cli.options import CacheAction
from tests.cli.conftest import Run
from tests.terminal.streams import KeptStream, Streams

CHUNK = f"{'c' * 64}.chunk"
POINT = f"1300-{'d' * 64}.point"
PREFIX = f"70-{'e' * 64}.prefix"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a GPTOSS_HOME whose cache has four files."""
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    for number, path in enumerate(
        (kv_folder() / CHUNK, kv_folder() / POINT, kv_folder() / PREFIX, int8_folder() / "a")
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000 * (number + 1)))
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    return tmp_path


def test_the_files_are_listed_with_size_and_use_the_latest_first(run: Run, home: Path) -> None:
    status, out, err = run("cache", "list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == [
        "NAME",
        "a",
        "70-eeeeeeeeeee....prefix",
        "1300-ddddddddd...d.point",
        "cccccccccccccc...c.chunk",
    ]
    assert "3.0 kB" in out
    assert f"4 files, 10.0 kB, in {home / 'cache'}" in err
    assert "KV caches take 6.0 kB of at most 4.3 GB." in err
    assert run("cache") == (status, out, err)


def test_the_list_fits_a_narrow_terminal(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(terminal=True)
    monkeypatch.setattr(type(streams.console.stdout), "columns", 40)
    run_cache(CacheAction.LIST, streams.console, as_json=False, yes=False, kv_limit_bytes=None)
    lines = streams.stdout.written.decode().splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[:4] == ["a", "  kind       int8 weights", "  size       4.0 kB", lines[3]]
    assert lines[3].startswith("  last used  2023-11-1")


def test_the_limit_that_is_shown_is_that_of_the_settings(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.config_folder().mkdir()
    settings.config_file().write_text('[history]\nkv_limit = "1.5 GiB"\n')
    assert "6.0 kB of at most 1.6 GB." in run("cache")[2]
    assert json.loads(run("cache", "--json")[1])["kv_limit_bytes"] == 3 << 29
    monkeypatch.setenv("GPTOSS_HISTORY_KV_LIMIT", "0")
    assert "6.0 kB of at most 0 B." in run("cache")[2]
    settings.config_file().write_text('[history]\nkv_limit = "much"\n')
    assert "line 2: history.kv-limit: 'much' is not a size." in run("cache")[2]


def test_the_list_as_json_has_whole_names_and_times(run: Run, home: Path) -> None:
    listed = json.loads(run("cache", "list", "--json")[1])
    assert (listed["version"], listed["bytes"], listed["folder"]) == (1, 10_000, str(home / "cache"))
    assert listed["files"][-1] == {
        "name": CHUNK,
        "kind": "conversation KV",
        "bytes": 1000,
        "last_used": "2023-11-14T22:13:20+00:00",
    }
    assert [file["kind"] for file in listed["files"]] == ["int8 weights", "prefix KV", *["conversation KV"] * 2]


def test_an_empty_cache_has_no_files(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    status, out, err = run("cache")
    assert (status, out) == (0, "")
    assert "0 files" in err
    assert json.loads(run("cache", "clear", "--json")[1])["deleted_files"] == 0


def test_clear_asks_and_deletes_everything(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("cache", "clear")[0] == 2
    monkeypatch.setattr(sys, "stdin", KeptStream(terminal=True, text=b"\n"))
    status, _, err = run("cache", "clear")
    assert status == 130
    assert "Delete 3.0 kB of conversation KV, 3.0 kB of prefix KV, 4.0 kB of int8 weights in" in err
    assert len(list_cache()) == 4
    monkeypatch.setattr(sys, "stdin", KeptStream(terminal=True, text=b"y\n"))
    status, _, err = run("cache", "clear")
    assert status == 0
    assert err.endswith("4 files deleted, 10.0 kB.\n")
    assert list_cache() == []


def test_clear_with_yes_does_not_ask(run: Run, home: Path) -> None:
    assert json.loads(run("cache", "clear", "--yes", "--json")[1]) == {
        "version": 1,
        "deleted_files": 4,
        "deleted_bytes": 10_000,
    }


def test_files_that_are_being_written_stay_and_leftovers_go(home: Path) -> None:
    new, old = kv_folder() / ".new.part", kv_folder() / ".old.part"
    new.touch()
    old.touch()
    os.utime(old, (0, 0))
    assert new not in [file.path for file in list_cache()]
    remove_oldest(kv_folder(), 1 << 30)
    assert (new.exists(), old.exists()) == (True, False)


def test_links_folders_and_pipes_are_not_listed(home: Path, tmp_path: Path) -> None:
    (kv_folder() / "folder").mkdir()
    (kv_folder() / "link").symlink_to(tmp_path / "precious")
    os.mkfifo(kv_folder() / "pipe")
    assert len(list_cache()) == 4


def test_only_names_of_kv_files_are_forgotten(home: Path) -> None:
    assert forget([CHUNK, POINT, f"../kv/{PREFIX}", "a", "/etc/passwd"], kept=[POINT]) == 1000
    assert [file.path.name for file in list_cache()] == ["a", PREFIX, POINT]
