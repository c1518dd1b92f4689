"""The streams of the process: the answer goes to stdout, everything else to stderr.

Only isatty() decides if a stream is a terminal; no environment variable makes a pipe one.
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
from gptoss_cli.terminal_modes import current_modes

_ERROR = "gptoss: "


class Style(Enum):
    """A style of text on stderr. The value is its SGR parameter."""

    PLAIN = ""
    DIM = "2"
    ERROR = "31"
    MARKUP = "35"
    CALL = "33"
    PROMPT = "32;1"


class Output:
    """An output stream; `stream` is None if it is closed."""

    def __init__(self, stream: TextIO | None) -> None:
        self.is_terminal = stream is not None and stream.isatty()
        self.is_within_line = False  # something was written on it
        self.stream = stream
        if isinstance(stream, io.TextIOWrapper):
            # A pipe gets the exact text as UTF-8; a terminal gets a question mark for what its encoding lacks.
            encoding = None if self.is_terminal else "utf-8"
            stream.reconfigure(encoding=encoding, errors="replace", newline="\n")

    def write(self, text: str) -> None:
        """Write `text` and flush. Raises OSError, also if the stream is closed."""
        if self.stream is None:
            raise OSError("it is closed")
        self.stream.write(text)
        self.stream.flush()
        if text:
            self.is_within_line = not text.removesuffix("\x1b[0m").endswith(("\n", "\r", "\x1b[K"))

    @property
    def columns(self) -> int:
        """The width of the terminal, 80 if it is unknown."""
        with suppress(OSError, ValueError):
            if self.stream is not None:
                return os.get_terminal_size(self.stream.fileno()).columns or 80
        return 80

    def abandon(self) -> None:
        """Discard buffered text, so that the interpreter's last flush cannot fail."""
        if self.stream is not None:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


class Activity:
    """A spinner with a text on the terminal. It appears after a short delay and disappears when it is closed.

    It is drawn by its own thread, since the work it is about may block the main thread for seconds.
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
        """Show `text` until the next one."""
        self._text = one_line(text)
        if self._thread is None and self._output.is_terminal:
            self._thread = threading.Thread(target=self._draw, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Remove the line. May be called twice."""
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
                # One column stays free: a full line would wrap and could not be removed.
                line = _cut(self._text, self._output.columns - 3)
                self._output.write(f"\r\x1b[K{frame} {line}")
            self._output.write("\r\x1b[K")

    def _numbers(self) -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1
            if self._closed.wait(self._FRAME_SECONDS):
                return


def _cut(text: str, columns: int) -> str:
    """Return the beginning of a line that fits `columns`."""
    if text.isascii():
        return text[: max(0, columns)]
    # Only here: rich, which measures text, takes longer to import than the program to start.
    from gptoss_cli.terminal.cells import cut

    return cut(text, columns)


def _wrapped(text: str, output: Output) -> str:
    """Return neutralised text in lines that fit a terminal, or unchanged if `output` is none."""
    columns = output.columns
    if not output.is_terminal or (text.isascii() and all(len(line) <= columns for line in text.split("\n"))):
        return text
    # Only here: rich, which measures text, takes longer to import than the program to start.
    from gptoss_cli.terminal.cells import Span, text_of, wrap

    return "\n".join(map(text_of, wrap([Span(text)], columns, whole_words=True)))


class Console:
    """stdin, stdout and stderr of the process, and the user's options about output."""

    def __init__(
        self, stdin: TextIO | None, stdout: TextIO | None, stderr: TextIO | None, environment: Mapping[str, str]
    ) -> None:
        self.stdin = stdin
        self.stdout = Output(stdout)
        self.stderr = Output(stderr)
        self.quiet = False
        self.debug = False
        self.verbose = False
        self.color: ColorChoice | None = None
        self.environment = environment
        self.modes = current_modes(stdin)

    @classmethod
    def of_process(cls) -> Self:
        """Return the console of this process."""
        return cls(sys.stdin, sys.stdout, sys.stderr, os.environ)

    @property
    def reads_terminal(self) -> bool:
        """True if stdin is a terminal."""
        return self.stdin is not None and self.stdin.isatty()

    @property
    def draws(self) -> bool:
        """True if text on stderr can be overwritten."""
        return self.renders_on(self.stderr)

    @property
    def draws_progress(self) -> bool:
        """True if progress is shown on stderr."""
        return self.draws and not self.quiet

    @property
    def colors(self) -> bool:
        """True if stderr is coloured."""
        return self.colors_on(self.stderr)

    def colors_on(self, output: Output) -> bool:
        """Return True if text on `output` is coloured."""
        if self.color in (None, ColorChoice.AUTO):
            return self.renders_on(output) and not self.environment.get("NO_COLOR")
        return self.color is ColorChoice.ALWAYS

    def renders_on(self, output: Output) -> bool:
        """Return True if `output` is a terminal on which text can be overwritten."""
        return output.is_terminal and self.environment.get("TERM") != "dumb"

    def out(self, text: str) -> None:
        """Write `text` to stdout: unchanged to a pipe or a file, neutralised on a terminal.

        Raises BrokenPipeError when the reader is gone, GptossError for any other failure.
        """
        try:
            self.stdout.write(neutralize(text) if self.stdout.is_terminal else text)
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise GptossError(f"stdout cannot be written: {exc.strerror or exc}; the output is incomplete") from exc

    def out_lines(self, text: str) -> None:
        """Write whole lines of text to stdout. A terminal gets whole words. Raises as `out`."""
        self.out(f"{_wrapped(neutralize(text).expandtabs(4), self.stdout) if self.stdout.is_terminal else text}\n")

    def err(self, text: str, style: Style = Style.PLAIN) -> None:
        """Write `text` to stderr. Failures are ignored, since the answer does not depend on stderr."""
        shown = neutralize(text) if self.stderr.is_terminal else text
        if style.value and self.colors and shown:
            shown = f"\x1b[{style.value}m{shown}\x1b[0m"
        with suppress(OSError):
            self.stderr.write(shown)

    def lines(self, text: str, style: Style = Style.PLAIN) -> None:
        """Write whole lines of text to stderr. A terminal gets whole words."""
        self.err(f"{self.wrapped(neutralize(text).expandtabs(4)) if self.stderr.is_terminal else text}\n", style)

    def notice(self, text: str) -> None:
        """Write a line of information to stderr unless the console is quiet. A terminal gets whole words."""
        if not self.quiet:
            self.err(f"{self.wrapped(one_line(text))}\n", Style.DIM)

    def interrupting_notice(self, text: str) -> None:
        """Write a notice on a line of its own in the middle of an answer."""
        shares_line = self.stdout.is_terminal and self.stderr.is_terminal and self.stdout.is_within_line
        if not self.quiet and (self.stderr.is_within_line or shares_line):
            self.err("\n")
        self.notice(text)

    def error(self, text: str) -> None:
        """Write an error as one line to stderr. A terminal gets whole words."""
        self.err(_ERROR, Style.ERROR)
        self.err(f"{self.wrapped(_ERROR + one_line(text))[len(_ERROR) :]}\n")

    def wrapped(self, text: str) -> str:
        """Return neutralised text in lines that fit a terminal on stderr, or unchanged if stderr is none."""
        return _wrapped(text, self.stderr)

    @contextmanager
    def activity(self) -> Iterator[Activity]:
        """Return an Activity that is closed when the block ends. It shows nothing unless stderr is a terminal."""
        activity = Activity(self.stderr if self.draws_progress else Output(None))
        try:
            yield activity
        finally:
            activity.close()

    def last_line(self, text: str) -> str:
        """Return an error as one line, after codes that undo what is drawn: the program ends right after it."""
        undone = "\x1b[0m\x1b[?25h\x1b[?2004l\r\x1b[J" if self.draws else ""
        return f"{undone}gptoss: {one_line(text)}\n"

    def abandon(self) -> None:
        """Discard what both streams have buffered."""
        self.stdout.abandon()
        self.stderr.abandon()
