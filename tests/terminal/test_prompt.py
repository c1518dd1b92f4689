"""The prompt, with keys from a pipe."""

import re
import stat
import textwrap
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.output import DummyOutput

from gptoss_cli.terminal.prompt import ChatPrompt, Entered, as_typed, is_open_block, open_history, without_block
from gptoss_cli.terminal.slash import message_of, parse
from tests.cli.terminal_driver import Terminal

_ENTER, _ALT_ENTER, _CTRL_C, _CTRL_D, _CTRL_J, _UP = "\r", "\x1b\r", "\x03", "\x04", "\n", "\x1b[A"

_BACKSPACE = "\x7f"
_DOCSTRING = '"""Say\n\nit."""'
_PROGRAM = """
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.renderer import Renderer
from gptoss_cli.terminal.prompt import ChatPrompt
Renderer.CPR_TIMEOUT = 0.2
print(ChatPrompt(InMemoryHistory(), toolbar=lambda columns: f"TOOLBAR {columns}").read())
input()
"""


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


def _pasted(text: str) -> str:
    return f"\x1b[200~{text}\x1b[201~"


def _enter(keys: str, history: History | None = None, draft: str = "") -> Entered | None:
    with create_pipe_input() as pipe:
        prompt = ChatPrompt(history or InMemoryHistory(), input=pipe, output=DummyOutput())
        pipe.send_text(keys)
        return prompt.read(draft)


@pytest.mark.parametrize(
    ("keys", "entered"),
    [
        (f"{_pasted('// a')}{_ENTER}", Entered("// a", pasted=True)),
        (f"{_pasted('/* a */')}!{_ENTER}", Entered("/* a */!", pasted=True)),
        (f"{_pasted('  /help')}{_ENTER}", Entered("  /help", pasted=True)),
        (f"{_pasted('a' + chr(92))}{_ENTER}", Entered("a\\", pasted=True)),
        (f"{_pasted('a' + chr(9) + 'b')}{_ENTER}", Entered("a\tb", pasted=True)),
        (f"{_pasted('/help')}{_CTRL_C}/help{_ENTER}", Entered("/help")),
        (f"x{_CTRL_C}\x12{_pasted('/he')}\x07/help{_ENTER}", Entered("/help")),
        (f"{_pasted('/x')}{_BACKSPACE * 2}/help{_ENTER}", Entered("/help")),
        (f"/file {_pasted('/etc/hosts')}{_ENTER}", Entered("/file /etc/hosts")),
        (f"what is {_pasted('// a')}{_ENTER}", Entered("what is // a")),
        (f"{_pasted(_DOCSTRING)}{_ENTER}", Entered(_DOCSTRING, pasted=True)),
        (f"{_pasted(_DOCSTRING.replace(chr(10), chr(13)))}{_ENTER}", Entered(_DOCSTRING, pasted=True)),
        (f'What does """ mean?{_ENTER}', Entered('What does """ mean?')),
        (f'"""a""" b{_ENTER}', Entered('"""a""" b')),
        (f'a{_ALT_ENTER}"""{_ALT_ENTER}b{_ENTER}', Entered('a\n"""\nb')),
        (
            f'"""{_ENTER}def f():{_ENTER}"""Doc."""{_ENTER}pass{_ENTER}"""{_ENTER}',
            Entered('def f():\n"""Doc."""\npass'),
        ),
        (f'"""{_ENTER}{_pasted("/help")}{_ENTER}"""{_ENTER}', Entered("/help")),
    ],
)
def test_what_is_pasted_keeps_every_character_and_a_block_is_the_whole_message(keys: str, entered: Entered) -> None:
    assert _enter(keys) == entered


def test_a_draft_is_no_command() -> None:
    assert _enter(_ENTER, draft="/etc") == Entered("/etc", pasted=True)


@pytest.mark.parametrize("text", ["// a", "/help", _DOCSTRING, '"""a"""', "  /x", "plain", "/* a\n */"])
def test_a_pasted_message_is_recalled_as_what_sends_the_same(text: str) -> None:
    history = InMemoryHistory()
    _enter(f"{_pasted(text)}{_ENTER}", history)
    recalled = _enter(f"{_UP}{_ENTER}", history)
    assert recalled is not None
    assert not recalled.pasted
    assert message_of(recalled.text).strip() == text.strip()
    assert parse(recalled.text) is None


@given(st.text(alphabet='a/" \n\\', max_size=12))
def test_what_is_typed_for_a_text_sends_that_text(text: str) -> None:
    assume(text.strip())
    typed = as_typed(text)
    assert not is_open_block(typed)
    sent = without_block(typed)
    assert parse(sent) is None
    assert message_of(sent).strip() == text.strip()


def test_an_open_block_is_shown_with_the_way_out(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM, "utf-8")
    for columns, shown in ((80, 'end it with """ and press Enter'), (40, 'Block: """ Enter sends, Ctrl-C clears')):
        with Terminal([str(program)], columns=columns, rows=12) as terminal:
            terminal.wait_for("TOOLBAR")
            terminal.type('"""a\r')
            terminal.wait_for(shown)
            assert "\n." in terminal.text
            terminal.type('b"""\r')
            terminal.wait_for("a\\nb")


def test_a_terminal_without_cursor_reports_has_a_toolbar_and_no_warning(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM, "utf-8")
    with Terminal([str(program)], rows=12, answers=False) as terminal:
        terminal.wait_for("TOOLBAR 80")
        terminal.type("hello\r")
        terminal.wait_for("Entered(text='hello'")
        assert "WARNING" not in terminal.everything


def test_a_tab_is_shown_as_blanks(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM, "utf-8")
    with Terminal([str(program)], rows=12) as terminal:
        terminal.wait_for("TOOLBAR")
        terminal.type("\x1b[200~a\tb\x1b[201~")
        terminal.wait_for("> a   b")


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


def test_a_message_that_was_searched_for_can_be_edited_and_sent() -> None:
    history = InMemoryHistory()
    for text in ("first", "second"):
        history.append_string(text)
    assert _read(f"\x12fir{_ENTER}!{_ENTER}", history) in ("first!", "!first")


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


def test_a_draft_is_set_aside_into_the_history_only_if_keys_wait() -> None:
    history = InMemoryHistory()
    with create_pipe_input() as pipe:
        prompt = ChatPrompt(history, input=pipe, output=DummyOutput())
        assert not prompt.set_aside("/first")
        assert history.get_strings() == []
        prompt.type_ahead([KeyPress("x")])
        assert prompt.set_aside("/first")
        assert history.get_strings() == ["//first"]
        pipe.send_text(f"y{_ENTER}")
        assert prompt.read() == Entered("xy")


def test_a_dumb_terminal_gets_plain_text_and_sends_a_line_that_ends_with_a_newline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    program = """
        from prompt_toolkit.history import InMemoryHistory
        from gptoss_cli.terminal.prompt import ChatPrompt
        prompt = ChatPrompt(InMemoryHistory(), toolbar=lambda columns: "TOOLBAR", on_shown=lambda: print("LOADING"))
        print(prompt.read(), prompt.was_cleared, prompt.read())
    """
    with Terminal(["-c", textwrap.dedent(program)]) as terminal:
        terminal.wait_for(">")
        while terminal.restored():
            terminal.look(0.01)
        terminal.type("wrong\x03right\n")
        terminal.wait_for("> right\nLOADING")
        terminal.type("\x04")
        terminal.wait_for("Entered(text='right', pasted=False) True None")
        assert terminal.raw.count(b"LOADING") == 2
        assert b"TOOLBAR" not in terminal.raw
        assert set(re.findall(rb"\x1b[^a-zA-Z]*[a-zA-Z]", terminal.raw)) <= {b"\x1b[?12l", b"\x1b[?25h"}


def test_ctrl_c_in_a_search_of_the_history_ends_the_search() -> None:
    history = InMemoryHistory(["old message"])
    assert _read(f"new\x12old{_CTRL_C}!{_ENTER}", history) == "new!"
