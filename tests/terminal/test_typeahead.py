"""Keys typed during an answer are kept for the prompt, or act at once."""

import os
import pty
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from gptoss_cli.terminal.typeahead import TypeAhead


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The file descriptor of a keyboard whose terminal is stdin."""
    master, slave = pty.openpty()
    with os.fdopen(slave, encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        yield master
    os.close(master)


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_shortcuts_act_at_once_and_other_keys_are_kept(keyboard: int) -> None:
    pressed: list[str] = []
    typed = TypeAhead({"c-o": lambda: pressed.append("c-o")})
    with typed.reading():
        os.write(keyboard, b"h\x0f\xc3\xbc")
        _wait_for(lambda: len(typed.keys) == 2)
    assert pressed == ["c-o"]
    assert [key.key for key in typed.keys] == ["h", "ü"]


def test_the_terminal_modes_are_restored(keyboard: int) -> None:
    termios = pytest.importorskip("termios")
    before = termios.tcgetattr(sys.stdin)
    with TypeAhead({}).reading():
        assert termios.tcgetattr(sys.stdin) != before
    assert termios.tcgetattr(sys.stdin) == before


def test_without_a_terminal_no_key_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        typed = TypeAhead({})
        with typed.reading():
            pass
    assert typed.keys == []
