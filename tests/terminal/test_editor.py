"""The editor of the user, and what comes back from it."""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from gptoss_cli.errors import UsageError
from gptoss_cli.terminal.editor import edited
from gptoss_cli.terminal.prompt import ChatPrompt, Entered


def _script(folder: Path, line: str) -> str:
    script = folder / "my editor.sh"
    script.write_text(f"#!/bin/sh\n{line}\n")
    script.chmod(0o700)
    return f"'{script}' --wait"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("true", "caf\u00e9 \U0001f600\nb"),
        (r"""printf 'one\r\ntwo\n' > "$2" """, "one\ntwo"),
        (r"""printf 'caf\351\n\n' > "$2" """, "caf\ufffd\n"),
        (""": > "$2" """, ""),
    ],
)
def test_what_is_saved_in_the_editor_comes_back(
    line: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    editor = _script(tmp_path, line)
    assert edited("caf\u00e9 \U0001f600\nb", {"EDITOR": "false", "VISUAL": editor}) == text
    assert list(tmp_path.glob("*.md")) == []


@pytest.mark.parametrize(
    ("editor", "problem"),
    [
        ("false", "The editor false failed with exit status 1."),
        ("sh -c 'kill -INT $$'", "The editor sh was ended by SIGINT."),
        ("/nowhere/vi -n", "There is no editor /nowhere/vi. Set EDITOR"),
        ("/", "The editor / cannot be started: Permission denied. Set EDITOR"),
        ("'vi", "EDITOR is not a command: 'vi"),
    ],
)
def test_an_editor_that_fails_is_named(editor: str, problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        edited("x", {"EDITOR": editor})
    assert str(raised.value) == problem


def _enter_later(send: Callable[[str], None], is_edited: Callable[[], bool]) -> threading.Thread:
    """Press Enter once the editor has ended."""

    def press() -> None:
        deadline = time.monotonic() + 20
        while not is_edited() and time.monotonic() < deadline:
            time.sleep(0.01)
        send("\r")

    thread = threading.Thread(target=press)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("line", "entered"),
    [
        ("""printf '/help' > "$2" """, Entered("/help")),
        ("""printf '/help\nmore' > "$2" """, Entered("/help\nmore", pasted=True)),
        ("exit 1", Entered("draft")),
    ],
)
def test_the_edited_message_is_not_sent_before_enter(
    line: str, entered: Entered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", _script(tmp_path, line))
    errors: list[Exception] = []
    with create_pipe_input() as pipe:
        prompt = ChatPrompt(InMemoryHistory(), input=pipe, output=DummyOutput(), on_error=errors.append)
        pipe.send_text("draft\x18\x05")
        buffer = prompt._session.default_buffer
        waiter = _enter_later(pipe.send_text, lambda: bool(errors) or buffer.text == entered.text != "draft")
        assert prompt.read() == entered
        waiter.join()
    assert len(errors) == (line == "exit 1")
