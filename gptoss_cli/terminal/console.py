"""The streams of one run of the program. stdout carries the answer and nothing else; all the rest goes to stderr.

Whether a stream is a terminal is asked of the stream and of nothing else: no variable makes a pipe one.
"""

import io
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Self, TextIO

from gptoss_cli.errors import GptossError
from gptoss_cli.settings import ColorChoice
from gptoss_cli.terminal.sanitize import neutralize, one_line


class Style(Enum):
    """What a piece of text on stderr is; the value is the SGR code that starts it."""

    PLAIN = ""
    DIM = "2"
    ERROR = "31"
    MARKUP = "35"
    CALL = "33"


class Output:
    """One of the two output streams; None stands for a closed one."""

    def __init__(self, stream: TextIO | None) -> None:
        self.is_terminal = stream is not None and stream.isatty()
        self.stream = stream
        if isinstance(stream, io.TextIOWrapper):
            # A pipe gets the answer's own bytes; a terminal that lacks a character gets a question mark.
            encoding = None if self.is_terminal else "utf-8"
            stream.reconfigure(encoding=encoding, errors="replace", newline="\n")

    def write(self, text: str) -> None:
        """Write and flush. Raises OSError; writing to a closed stream is one."""
        if self.stream is None:
            raise OSError("it is closed")
        self.stream.write(text)
        self.stream.flush()

    @property
    def columns(self) -> int:
        """The terminal's width, 80 where it tells none."""
        with suppress(OSError, ValueError):
            if self.stream is not None:
                return os.get_terminal_size(self.stream.fileno()).columns or 80
        return 80

    def abandon(self) -> None:
        """Let what is still buffered go nowhere, so that the interpreter's last flush cannot fail."""
        if self.stream is not None:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


class Activity:
    """A line on the terminal that says what is being waited for, after a short while and until it is closed.

    Lives in a thread of its own: the work it speaks of may hold the main thread for seconds.
    """

    _FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
    _DELAY_SECONDS = 0.3
    _FRAME_SECONDS = 0.1

    def __init__(self, output: Output) -> None:
        self._output = output
        self._text = ""
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def say(self, text: str) -> None:
        """Show `text` from now on."""
        self._text = one_line(text)
        if self._thread is None and self._output.is_terminal:
            self._thread = threading.Thread(target=self._draw, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Take the line away. May be called twice."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _draw(self) -> None:
        if self._closed.wait(self._DELAY_SECONDS):
            return
        with suppress(OSError):
            for number in self._numbers():
                frame = self._FRAMES[number % len(self._FRAMES)]
                # One column stays free: a full line would wrap and could not be taken away.
                line = f"{frame} {self._text}"[: self._output.columns - 1]
                self._output.write(f"\r\x1b[K{line}")
            self._output.write("\r\x1b[K")

    def _numbers(self) -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1
            if self._closed.wait(self._FRAME_SECONDS):
                return


class Console:
    """stdin, stdout and stderr of one run, with what the user said about colour and quiet."""

    def __init__(
        self, stdin: TextIO | None, stdout: TextIO | None, stderr: TextIO | None, environment: Mapping[str, str]
    ) -> None:
        self.stdin = stdin
        self.stdout = Output(stdout)
        self.stderr = Output(stderr)
        self.quiet = False
        self.debug = False
        self.color: ColorChoice | None = None
        self.environment = environment

    @classmethod
    def of_process(cls) -> Self:
        """The console of this process."""
        return cls(sys.stdin, sys.stdout, sys.stderr, os.environ)

    @property
    def reads_terminal(self) -> bool:
        """Whether a person types on stdin."""
        return self.stdin is not None and self.stdin.isatty()

    @property
    def draws(self) -> bool:
        """Whether what was written on stderr may be drawn over."""
        return self.stderr.is_terminal and self.environment.get("TERM") != "dumb"

    @property
    def draws_progress(self) -> bool:
        """Whether lines that move are wanted on stderr."""
        return self.draws and not self.quiet

    @property
    def colors(self) -> bool:
        """Whether there is colour on stderr."""
        if self.color in (None, ColorChoice.AUTO):
            return self.draws and not self.environment.get("NO_COLOR")
        return self.color is ColorChoice.ALWAYS

    def out(self, text: str) -> None:
        """Write `text` to stdout: unchanged to a pipe or a file, neutralised on a terminal.

        Raises BrokenPipeError when the reader is gone, GptossError for any other failure.
        """
        try:
            self.stdout.write(neutralize(text) if self.stdout.is_terminal else text)
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise GptossError(f"stdout cannot be written: {exc.strerror or exc}. The answer is not complete.") from exc

    def err(self, text: str, style: Style = Style.PLAIN) -> None:
        """Write `text` to stderr. A stderr that cannot be written is ignored: the answer goes on."""
        shown = neutralize(text) if self.stderr.is_terminal else text
        if style.value and self.colors and shown:
            shown = f"\x1b[{style.value}m{shown}\x1b[0m"
        with suppress(OSError):
            self.stderr.write(shown)

    def notice(self, text: str) -> None:
        """One line the user may want to know; `--quiet` drops it."""
        if not self.quiet:
            self.err(f"{one_line(text)}\n", Style.DIM)

    def error(self, text: str) -> None:
        """One line that says what went wrong."""
        self.err("gptoss: ", Style.ERROR)
        self.err(f"{one_line(text)}\n")

    @contextmanager
    def activity(self) -> Iterator[Activity]:
        """An Activity that is gone when the block ends; one that shows nothing unless stderr is a terminal."""
        activity = Activity(self.stderr if self.draws_progress else Output(None))
        try:
            yield activity
        finally:
            activity.close()

    def abandon(self) -> None:
        """Nothing more will be read of what is still buffered."""
        self.stdout.abandon()
        self.stderr.abandon()
