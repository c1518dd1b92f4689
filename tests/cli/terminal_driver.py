"""Runs a program on a pseudo-terminal and reads its screen through a terminal emulator."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pyte

from tests.cli.forked_program import ForkedProgram

SCRIPTED_PROGRAM = Path(__file__).parent / "scripted_program.py"
_PATIENCE_SECONDS = 30.0


class Terminal:
    """A terminal of `columns` by `rows` with one program on it. It `answers` where the cursor is, or never does.

    `before` is a command that starts the program.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        columns: int = 80,
        rows: int = 40,
        cwd: Path | None = None,
        before: Sequence[str] = (),
        answers: bool = True,
    ) -> None:
        self._answers = answers
        self.screen = pyte.HistoryScreen(columns, rows, history=100_000, ratio=0.5)
        self.raw = b""
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._modes = termios.tcgetattr(slave)
        self._slave = slave
        self._process = self._start([*before, sys.executable, *arguments], cwd)

    def _start(self, command: Sequence[str], cwd: Path | None) -> "subprocess.Popen[bytes] | ForkedProgram":
        slave = self._slave
        return subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=cwd, preexec_fn=_take_terminal)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)
        os.close(self._slave)

    @property
    def process(self) -> int:
        """The process id of the program."""
        return self._process.pid

    @property
    def text(self) -> str:
        """The text on the screen, without the blanks at the right and below."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    @property
    def everything(self) -> str:
        """The text on the screen and above it, as far as it has scrolled off."""
        columns = range(self.screen.columns)
        above = ["".join(line[x].data for x in columns).rstrip() for line in self.screen.history.top]
        return "\n".join([*above, self.text])

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal, as a window manager does."""
        self.screen.resize(rows, columns)
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def suspend(self) -> None:
        """Stop the program, give its terminal to a shell with other modes, and go on once it has its own again."""
        self.signal(signal.SIGSTOP)
        termios.tcsetattr(self._slave, termios.TCSANOW, self._modes)
        self.signal(signal.SIGCONT)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while termios.tcgetattr(self._slave) == self._modes:
            assert time.monotonic() < deadline, "it goes on with the shell's modes"
            self._read()

    def wait_for(self, text: str) -> None:
        """Wait until `text` is on the screen."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while text not in self.text:
            assert time.monotonic() < deadline, f"{text!r} is not on the screen:\n{self.text}"
            self._read()

    def type_for(self, keys: str, text: str) -> None:
        """Type `keys` and wait until `text` is there once more than before."""
        before, deadline = self.everything.count(text), time.monotonic() + _PATIENCE_SECONDS
        self.type(keys)
        while self.everything.count(text) <= before:
            assert time.monotonic() < deadline, f"{text!r} does not come:\n{self.text}"
            self._read()

    def wait_without(self, text: str) -> None:
        """Wait until `text` is no longer on the screen."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while text in self.text:
            assert time.monotonic() < deadline, f"{text!r} is still on the screen:\n{self.text}"
            self._read()

    def wait_for_prompt(self) -> None:
        """Wait until the cursor is at an empty prompt."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self.screen.display[self.screen.cursor.y].rstrip() != ">":
            assert time.monotonic() < deadline, f"there is no prompt:\n{self.text}"
            self._read()

    def look(self, seconds: float) -> None:
        """Read what is shown for so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._read(seconds=0.01)

    def wait(self) -> int:
        """Wait for the end of the program and return its exit status."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end:\n{self.text}"
            self._read()
        self._read()
        return self._process.wait()

    def restored(self) -> bool:
        """Return True if the modes of the terminal are those from before the program, and the cursor is visible."""
        return termios.tcgetattr(self._slave) == self._modes and not self.screen.cursor.hidden

    def _read(self, *, seconds: float = 0.05) -> None:
        while select.select([self._master], [], [], seconds)[0]:
            data = os.read(self._master, 65_536)
            self.raw += data
            self._stream.feed(data)
            if self._answers and b"\x1b[6n" in data:  # the program asks where the cursor is
                self.type(f"\x1b[{self.screen.cursor.y + 1};{self.screen.cursor.x + 1}R")


class ForkedTerminal(Terminal):
    """A terminal with `gptoss` on it, with the command line `arguments`, which starts faster. See ForkedProgram."""

    def __init__(self, *arguments: str, script: str | None = None, columns: int = 80, rows: int = 40) -> None:
        self._script, self._arguments = script, arguments
        super().__init__([], columns=columns, rows=rows)

    def _start(self, command: Sequence[str], cwd: Path | None) -> ForkedProgram:
        return ForkedProgram(self._arguments, script=self._script, terminal=os.ttyname(self._slave))


def _take_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
