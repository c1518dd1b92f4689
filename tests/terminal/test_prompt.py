"""The prompt, with keys from a pipe."""

import stat
from pathlib import Path

import pytest
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.output import DummyOutput

from gptoss_cli.terminal.prompt import ChatPrompt, Entered, open_history

_ENTER, _ALT_ENTER, _CTRL_C, _CTRL_D, _CTRL_J, _UP = "\r", "\x1b\r", "\x03", "\x04", "\n", "\x1b[A"


def _read(keys: str, history: History | None = None) -> str | None:
    with create_pipe_input() as pipe:
        prompt = ChatPrompt(history or InMemoryHistory(), input=pipe, output=DummyOutput())
        pipe.send_text(keys)
        entered = prompt.read()
    return None if entered is None else entered.text


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (f"hello{_ENTER}", "hello"),
        (f"one{_ALT_ENTER}two{_CTRL_J}three{_ENTER}", "one\ntwo\nthree"),
        (f"wrong{_CTRL_C}right{_ENTER}", "right"),
        (f"{_CTRL_C}{_CTRL_C}{_CTRL_C}x{_ENTER}", "x"),
        (f"{_ENTER} {_ENTER}x{_ENTER}", " x"),
        (f"x{_CTRL_D}y{_ENTER}", "xy"),
        (f"\x1b[200~one\rtwo\n{_ENTER.join('ab')}\x1b[201~!{_ENTER}", "one\ntwo\na\nb!"),
        (f'"""one{_ENTER}two"""{_ENTER}', "one\ntwo"),
        (f'"""one{_CTRL_C}two{_ENTER}', "two"),
        (f"one\\{_ENTER}two{_ENTER}", "one\ntwo"),
        (_CTRL_D, None),
    ],
)
def test_keys_make_the_message(keys: str, text: str | None) -> None:
    assert _read(keys) == text


def test_a_pasted_text_of_5000_lines_is_one_message() -> None:
    pasted = "\n".join(f"line {number}" for number in range(5_000))
    assert _read(f"\x1b[200~{pasted}\x1b[201~{_ENTER}") == pasted


def test_bytes_that_are_not_utf8_are_sent(tmp_path: Path) -> None:
    history, _ = open_history(tmp_path / "history")
    with create_pipe_input() as pipe:
        prompt = ChatPrompt(history, input=pipe, output=DummyOutput())
        pipe.send_bytes(b"a\xffb\r")
        entered = prompt.read()
    assert entered is not None
    assert (entered.text[0], entered.text[-1]) == ("a", "b")


def test_up_recalls_messages_of_an_earlier_chat(tmp_path: Path) -> None:
    _read(f"first{_ENTER}", open_history(tmp_path / "history")[0])
    history, problem = open_history(tmp_path / "history")
    assert problem is None
    assert isinstance(history, FileHistory)
    assert _read(f"{_UP}{_ENTER}", history) == "first"


def test_the_history_is_private(tmp_path: Path) -> None:
    open_history(tmp_path / "state" / "history")
    assert stat.S_IMODE((tmp_path / "state" / "history").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_a_history_readable_by_others_becomes_private(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("\n# then\n+before\n")
    (tmp_path / "history").chmod(0o644)
    open_history(tmp_path / "history")
    assert stat.S_IMODE((tmp_path / "history").stat().st_mode) == 0o600


def test_a_history_that_cannot_be_opened_is_in_memory_with_a_problem(tmp_path: Path) -> None:
    history, problem = open_history(tmp_path)
    assert isinstance(history, InMemoryHistory)
    assert problem is not None
    assert str(tmp_path) in problem


def test_a_large_history_is_cut_to_its_newest_entries(tmp_path: Path) -> None:
    file = tmp_path / "history"
    with file.open("w", encoding="utf-8") as stream:
        for number in range(60_000):
            stream.write(f"\n# 2026-01-01 00:00:00\n+message {number} {'word ' * 12}\n")
    history, problem = open_history(file)
    kept = list(history.load_history_strings())
    assert problem is None
    assert kept[0].startswith("message 59999 ")
    assert all(entry.startswith("message ") for entry in kept)
    assert file.stat().st_size <= 1 << 20
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_draft_can_be_edited_and_shortcuts_are_called() -> None:
    pressed = []
    with create_pipe_input() as pipe:
        prompt = ChatPrompt(
            InMemoryHistory(), shortcuts={"c-o": lambda: pressed.append("o")}, input=pipe, output=DummyOutput()
        )
        pipe.send_text(f"!\x0f{_ENTER}")
        assert prompt.read("draft") == Entered("draft!", pasted=True)
    assert pressed == ["o"]


def test_keys_typed_ahead_come_first() -> None:
    with create_pipe_input() as pipe:
        prompt = ChatPrompt(InMemoryHistory(), input=pipe, output=DummyOutput())
        prompt.type_ahead([KeyPress("a"), KeyPress("b")])
        pipe.send_text(f"c{_ENTER}")
        assert prompt.read() == Entered("abc")
