"""The recipes for scripts in the README, run as they stand there, with a model that plays prepared answers."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Script, turn
from tests.cli.terminal_driver import SCRIPTED_PROGRAM

_README = Path(__file__).parents[2] / "README.md"
Recipe = Callable[[str, str], str]


def _recipes() -> dict[str, str]:
    """First line, a comment -> the recipe."""
    section = _README.read_text("utf-8").split("\n## In scripts\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.+?)```", section, flags=re.DOTALL)
    return {recipe.split("\n")[0][2:]: recipe for recipe in re.split(r"^(?=# )", block, flags=re.MULTILINE) if recipe}


@pytest.fixture
def recipe(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Runs the recipe of that title where `gptoss` gives one answer; returns stdout."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)

    def run(title: str, answer: str) -> str:
        program = f'#!/bin/sh\nexec "{sys.executable}" "{SCRIPTED_PROGRAM}" "{script(turn(answer))}" "$@"\n'
        (folder / "gptoss").write_text(program)
        (folder / "gptoss").chmod(0o755)
        (command,) = (block for name, block in _recipes().items() if title in name)
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_there_are_five() -> None:
    assert len(_recipes()) == 5


def test_a_commit_message_is_made_from_a_diff(recipe: Recipe, tmp_path: Path) -> None:
    git = ["git", "-c", "init.defaultBranch=main"]
    subprocess.run([*git, "init", "-q"], check=True)
    for name, value in (("user.name", "A"), ("user.email", "a@example.org")):
        subprocess.run([*git, "config", name, value], check=True)
    (tmp_path / "notes").write_text("one\n")
    subprocess.run([*git, "add", "notes"], check=True)
    recipe("commit message", "notes: begin\n\nBecause.")
    told = subprocess.run([*git, "log", "--format=%B"], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "notes: begin\n\nBecause."


def test_every_file_gets_one_word(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    for name in ("a", "b"):
        (tmp_path / "inbox" / f"{name}.txt").write_text("It crashes.")
    assert recipe("one word", "bug") == "bug\tinbox/a.txt\nbug\tinbox/b.txt\n"


def test_json_goes_into_jq(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "invoice.txt").write_text("Alder, 12.50 in all")
    assert recipe("JSON", '{"from": "Alder", "total": 12.5}') == "12.5\n"


def test_a_log_is_explained(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text("ERROR disk full\n" * 300)
    assert recipe("log", "The disk is full.") == "The disk is full.\n"


def test_a_text_is_judged_by_a_policy(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "policy.md").write_text("Spam is bad.")
    (tmp_path / "verdict.json").write_text('{"type": "object", "properties": {"bad": {"type": "boolean"}}}')
    (tmp_path / "post.txt").write_text("Buy now.")
    assert recipe("verdict", '{"bad": true}') == '{"bad": true}\n'
