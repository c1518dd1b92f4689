"""The clipboard is reached by a program, or through the terminal."""

import base64
from pathlib import Path

import pytest

from gptoss_cli.errors import UsageError
from gptoss_cli.terminal.clipboard import copy
from tests.terminal.streams import Streams


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that keeps what it is given, as the only one there is."""
    file = tmp_path / "wl-copy"
    file.write_text(f'#!/bin/sh\nwhile read -r line; do echo "$line"; done > {tmp_path}/copied\n')
    file.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    return file


def test_a_program_gets_the_text_where_there_is_one(program: Path) -> None:
    streams = Streams(terminal=True, environment={"WAYLAND_DISPLAY": "wayland-0"})
    copy("ü\x1b\n", streams.console)
    assert (program.parent / "copied").read_text("utf-8") == "ü\x1b\n"
    assert streams.err == ""


def test_without_one_the_terminal_is_asked_in_letters_that_do_no_harm(program: Path) -> None:
    streams = Streams(terminal=True)
    copy("\x1b[2J", streams.console)
    assert streams.err == f"\x1b]52;c;{base64.b64encode(b'%c[2J' % 27).decode()}\x07"


def test_a_program_that_fails_is_passed_over(program: Path) -> None:
    program.write_text("#!/bin/sh\nexit 1\n")
    streams = Streams(terminal=True, environment={"WAYLAND_DISPLAY": "wayland-0"})
    copy("x", streams.console)
    assert streams.err.startswith("\x1b]52;c;")


def test_where_there_is_neither_it_is_told(program: Path) -> None:
    with pytest.raises(UsageError, match="There is no clipboard here"):
        copy("x", Streams().console)
