"""The KV cache of a saved conversation: continuing reads only what is new, and removing removes it too."""

import json
from pathlib import Path

import pytest

from gptoss_cli.cache_files import kv_folder
from tests.cli.conftest import Run


@pytest.fixture
def kv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of KV caches, in a home of this test alone."""
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    return kv_folder()


def _files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if file.suffix != ".prefix"} if folder.is_dir() else set()


def test_a_continued_conversation_reads_only_what_is_new_and_its_removal_leaves_no_file(run: Run, kv: Path) -> None:
    assert run("ask", "-m", "demo", "--save", "--seed", "1", "My name is Ada. Please remember it.")[0] == 0
    assert _files(kv)
    status, stdout, _ = run("ask", "-c", "--json", "--seed", "2", "What is my name?")
    continued = json.loads(stdout)
    assert (status, "Ada" in continued["answer"]) == (0, True)
    assert continued["prefilled_tokens"] < continued["prompt_tokens"] // 2
    assert run("conversations", "rm", "--all", "--yes")[0] == 0
    assert _files(kv) == set()


def test_a_conversation_that_is_not_saved_leaves_no_kv_cache(run: Run, kv: Path) -> None:
    assert run("ask", "-m", "demo", "--seed", "1", "My name is Ada. Please remember it.")[0] == 0
    assert _files(kv) == set()
