"""Text is copied by a program, or by the terminal."""

import base64
from pathlib import Path

import pytest

from gptoss_cli.errors import Hint, UsageError
from gptoss_cli.terminal.clipboard import copy
from tests.terminal.streams import Streams


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only clipboard program, which writes to a file."""
    file = tmp_path / "wl-copy"
    file.write_text(f'#!/bin/sh\nwhile read -r line; do echo "$line"; done > {tmp_path}/copied\n')
    file.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    return file


def test_a_program_is_used_if_there_is_one(program: Path) -> None:
    streams = Streams(terminal=True, environment={"WAYLAND_DISPLAY": "wayland-0"})
    copy("ü\x1b\n", streams.console)
    assert (program.parent / "copied").read_text("utf-8") == "ü\x1b\n"
    assert streams.err == ""


def test_without_a_program_the_terminal_gets_the_text_in_base64(program: Path) -> None:
    streams = Streams(terminal=True)
    copy("\x1b[2J", streams.console)
    assert streams.err == f"\x1b]52;c;{base64.b64encode(b'%c[2J' % 27).decode()}\x07"


def test_a_program_that_fails_is_skipped(program: Path) -> None:
    program.write_text("#!/bin/sh\nexit 1\n")
    streams = Streams(terminal=True, environment={"WAYLAND_DISPLAY": "wayland-0"})
    copy("x", streams.console)
    assert streams.err.startswith("\x1b]52;c;")


def test_without_both_it_is_a_usage_error_with_a_hint(program: Path) -> None:
    with pytest.raises(UsageError, match="There is no clipboard here") as caught:
        copy("x", Streams().console)
    assert caught.value.hints == (Hint.SAVE_ANSWER,)
