"""Text is copied by a program, or by the terminal."""

import base64
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gptoss_cli.errors import Hint, UsageError
from gptoss_cli.terminal.clipboard import copy
from tests.cli.terminal_driver import Terminal
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
    assert copy("ü\x1b\n", streams.console) == "Copied 3 characters."
    assert (program.parent / "copied").read_text("utf-8") == "ü\x1b\n"
    assert streams.err == ""


def test_without_a_program_the_terminal_gets_the_text_in_base64(program: Path) -> None:
    streams = Streams(terminal=True)
    words = copy("\x1b[2J", streams.console)
    assert words == "Sent 4 characters to the terminal, which puts the text on the clipboard if it allows that."
    assert streams.err == f"\x1b]52;c;{base64.b64encode(b'%c[2J' % 27).decode()}\x07"


def test_a_program_that_fails_is_skipped(program: Path) -> None:
    program.write_text("#!/bin/sh\nexit 1\n")
    streams = Streams(terminal=True, environment={"WAYLAND_DISPLAY": "wayland-0"})
    copy("x", streams.console)
    assert streams.err.startswith("\x1b]52;c;")


def _program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!{sys.executable}\nimport sys\nfolder = {str(folder)!r}\n{script}", "utf-8")
    (folder / name).chmod(0o700)


def test_windows_gets_utf16_with_a_byte_order_mark(program: Path) -> None:
    _program(program.parent, "clip.exe", "open(folder + '/copied', 'wb').write(sys.stdin.buffer.read())")
    assert copy("ü 漢😀", Streams(terminal=True).console) == "Copied 4 characters."
    assert (program.parent / "copied").read_bytes() == b"\xff\xfe" + "ü 漢😀".encode("utf-16-le")


_TMUX = """
if "-w" in sys.argv and not {passes_on}:
    sys.exit(1)
open(folder + '/copied', 'wb').write(repr(sys.argv[1:]).encode() + sys.stdin.buffer.read())
"""


@pytest.mark.parametrize(
    ("passes_on", "arguments", "words"),
    [
        (
            True,
            ["load-buffer", "-w", "-"],
            "to tmux, which passes the text on to the clipboard if the terminal allows it.",
        ),
        (False, ["load-buffer", "-"], "to the buffer of tmux: its prefix key and ] paste it."),
    ],
)
def test_tmux_gets_the_text_itself_since_it_ignores_the_escape_sequence(
    passes_on: bool, arguments: list[str], words: str, program: Path
) -> None:
    _program(program.parent, "tmux", _TMUX.format(passes_on=passes_on))
    streams = Streams(terminal=True, environment={"TMUX": "/tmp/tmux,1,0"})
    assert copy("ü", streams.console) == f"Copied 1 character {words}"
    assert (program.parent / "copied").read_text("utf-8") == f"{arguments}ü"
    assert streams.err == ""


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_tmux_with_its_defaults_hands_the_text_to_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("TMUX", raising=False)
    # A server of its own, without the settings of the user.
    server = ["tmux", "-f", "/dev/null", "-S", str(tmp_path / "server")]
    program = tmp_path / "program.py"
    program.write_text(
        "from gptoss_cli.terminal.clipboard import copy\n"
        "from gptoss_cli.terminal.console import Console\n"
        "print(copy('copied text', Console.of_process()))\n"
        "input()\n",
        "utf-8",
    )
    attach = f"import os; os.execvp('tmux', {[*server, 'new-session', sys.executable, str(program)]!r})"
    with Terminal(["-c", attach], columns=100) as terminal:
        terminal.wait_for("Copied 11 characters to tmux")
        terminal.look(0.2)
        assert base64.b64encode(b"copied text") in terminal.raw
        subprocess.run([*server, "kill-server"], check=True)


def test_without_both_it_is_a_usage_error_with_a_hint(program: Path) -> None:
    with pytest.raises(UsageError, match="There is no clipboard here") as caught:
        copy("x", Streams().console)
    assert caught.value.hints == (Hint.SAVE_ANSWER,)
