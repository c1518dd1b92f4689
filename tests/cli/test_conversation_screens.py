"""Screens of the saved conversations, which tests/golden/ holds. To write them again: GOLDEN=write pytest FILE."""

import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gptoss_cli.archive.archive import Archive, Stored
from gptoss_cli.archive.saving import Origin
from gptoss_cli.cli.resuming import archive_path
from tests.archive.conversations import complain, save
from tests.cli.conftest import Script, turn
from tests.cli.terminal_driver import ForkedTerminal, Terminal

_GOLDEN = Path(__file__).parents[1] / "golden"
_SIZES = ((80, 24), (160, 50))
_ALL_SIZES = ((40, 20), *_SIZES)
_ANSWER = """\
Use `sort_unstable` unless equal elements must keep their order:

```rust
let mut names = vec!["b", "a"];
names.sort_unstable();
```

| method | stable | allocates |
|---|---|---|
| `sort` | yes | half the slice |
| `sort_unstable` | no | nothing |
"""


@pytest.fixture(autouse=True)
def _conversations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    saved = Archive(tmp_path / "saved" / "conversations.db", notice=complain)
    save(saved, "Why is the sky blue?", "Short waves are scattered more.")
    save(saved, "排序算法有哪些?", "快速排序和归并排序。", origin=Origin(model="gpt-oss-120b", identity=""))
    save(saved, "A question that is much longer than a title may be, so that it is cut", "Yes.")
    save(saved, "\x1b[31mSorting in Rust\nwith \x9b31m colours", _ANSWER, "And by a key?", "`sort_by_key`.")
    # An hour apart, so that their ids differ early and have the same short form.
    moments = (time.time() - 3600 * hours for hours in (4, 3, 2, 1))
    stored = [saved.load(each) for each in saved.ids()]
    Archive(archive_path(), notice=complain).add(
        Stored(replace(each.row, created=moment, updated=moment), each.messages, each.turns)
        for each, moment in zip(sorted(stored, key=lambda each: each.messages[0].id), moments, strict=True)
    )


def _compare(text: str, name: str) -> None:
    """Compare a screen with its file; ids are made equal."""
    shown = re.sub(r"\b[0-9A-HJKMNP-TV-Z]{26}\b", "I" * 26, text)
    shown = re.sub(r"(?m)^01[0-9A-HJKMNP-TV-Z]{6}(?= )", "01ABCDEF", shown)
    file = _GOLDEN / name
    if os.environ.get("GOLDEN") == "write":
        file.write_text(f"{shown}\n", "utf-8")
    assert f"{shown}\n" == file.read_text("utf-8")


def _shown(*arguments: str, columns: int, rows: int) -> str:
    with ForkedTerminal("conversations", *arguments, columns=columns, rows=rows) as terminal:
        assert terminal.wait() == 0
        return terminal.everything


@pytest.mark.parametrize(("columns", "rows"), _ALL_SIZES)
def test_list(columns: int, rows: int) -> None:
    shown = _shown("list", columns=columns, rows=rows)
    assert max(map(len, shown.splitlines())) < columns
    _compare(shown, f"conversations-list-{columns}x{rows}.txt")


@pytest.mark.parametrize(("columns", "rows"), _SIZES)
def test_show(columns: int, rows: int) -> None:
    _compare(
        _shown("show", "[31mSorting in Rust", columns=columns, rows=rows), f"conversations-show-{columns}x{rows}.txt"
    )


def test_show_on_a_terminal_has_the_colours_of_a_chat() -> None:
    for options, coloured in (((), True), (("--color", "never"), False)):
        with ForkedTerminal("conversations", "show", "Why is the sky blue?", *options) as terminal:
            assert terminal.wait() == 0
            assert (b"\x1b[1;32mYou\x1b[0m" in terminal.raw) is coloured


@pytest.mark.parametrize(("columns", "rows"), _ALL_SIZES)
def test_search(columns: int, rows: int) -> None:
    _compare(_shown("search", "sort", columns=columns, rows=rows), f"conversations-search-{columns}x{rows}.txt")


@pytest.mark.parametrize(("columns", "rows"), _SIZES)
def test_picker(columns: int, rows: int) -> None:
    with ForkedTerminal("chat", "--resume", columns=columns, rows=rows) as terminal:
        terminal.wait_for("Esc leaves")
        terminal.type("s")
        terminal.wait_for("4 of 4")
        terminal.type("\x1b[B")
        terminal.wait_for("> A question")
        terminal.type("or")
        terminal.wait_for("1 of 4")
        _compare(terminal.text, f"conversations-picker-{columns}x{rows}.txt")
        terminal.type("\x1b")
        assert terminal.wait() == 130
        assert terminal.restored()


def test_a_choice_in_the_picker_is_continued() -> None:
    with Terminal(["-m", "gptoss_cli", "chat", "--resume", "-m", "demo"]) as terminal:
        terminal.wait_for("Esc leaves")
        terminal.type("sky\r")
        terminal.wait_for("Continuing “Why is the sky blue?” (2 messages, gpt-oss-20b")
        terminal.wait_for_prompt()
        terminal.type("/exit\r")
        assert terminal.wait() == 0


def test_in_a_chat_resume_alone_shows_the_picker(script: Script) -> None:
    with ForkedTerminal("chat", script=script(turn("Red."))) as terminal:
        terminal.wait_for_prompt()
        terminal.type("/resume\r")
        terminal.wait_for("Esc leaves")
        terminal.type("\x1b")
        terminal.wait_for_prompt()
        terminal.type("/resume\r")
        terminal.wait_for("Esc leaves")
        terminal.type("sky\r")
        terminal.wait_for("Continuing “Why is the sky blue?” (2 messages, gpt-oss-20b")
        terminal.wait_for_prompt()
        terminal.type("Evening?\r")
        terminal.wait_for("Red.")
        terminal.wait_for_prompt()
        terminal.type("/exit\r")
        assert terminal.wait() == 0


def test_without_a_conversation_there_is_nothing_to_pick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "empty"))
    with ForkedTerminal("chat", "--resume") as terminal:
        assert terminal.wait() == 2
        assert "There is no conversation to continue yet" in terminal.text
