"""Progress of files that are downloaded or read: a line per file, and one for the total."""

import threading
import time
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Self

from gptoss_cli.terminal.cells import cells, cut
from gptoss_cli.terminal.console import Console
from gptoss_cli.terminal.sanitize import one_line
from gptoss_cli.units import duration_words, size_words

_FRAME_SECONDS = 0.25
# The speed is the mean over this time.
_SPEED_SECONDS = 8.0
_BAR_COLUMNS = 20
_LEAST_NAME_COLUMNS = 12


class FileProgress:
    """Progress of files of `total_bytes` together, drawn on a terminal during a `with` block.

    `done` is the word for a finished file, such as "verified". The methods may be called from any thread.
    """

    def __init__(self, console: Console, total_bytes: int, *, done: str) -> None:
        self._console, self._total_bytes, self._done = console, total_bytes, done
        self._files: dict[str, list[int]] = {}
        self._all_bytes = 0
        self._finished: list[str] = []
        self._speeds: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._drawn_lines = 0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._console.draws_progress:
            self._thread = threading.Thread(target=self._draw_until_closed, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        self._report()

    def begin(self, name: str, done_bytes: int, total_bytes: int) -> None:
        """Start a file, of which `done_bytes` exist already, or start it again."""
        with self._lock:
            earlier = self._files.get(name, [0])[0]
            self._files[name] = [done_bytes, total_bytes]
            self._all_bytes += done_bytes - earlier
            if earlier or done_bytes:
                self._speeds.clear()

    def advance(self, name: str, count_bytes: int) -> None:
        """Add `count_bytes` to a file."""
        with self._lock:
            self._files[name][0] += count_bytes
            self._all_bytes += count_bytes

    def end(self, name: str) -> None:
        """Finish a file."""
        with self._lock:
            _, total_bytes = self._files.pop(name)
            self._finished.append(f"{one_line(name)}: {size_words(total_bytes)}, {self._done}")
        if self._thread is None:
            self._report()

    def notice(self, text: str) -> None:
        """Print a line of information, above what is drawn."""
        with self._lock:
            self._finished.append(text)
        if self._thread is None:
            self._report()

    def _report(self) -> None:
        """Print the permanent lines: finished files, and notices."""
        with self._lock:
            finished, self._finished = self._finished, []
        for line in finished:
            self._console.notice(line)

    def _draw_until_closed(self) -> None:
        while not self._closed.wait(_FRAME_SECONDS):
            # One column stays free: a full line would wrap and could not be removed.
            self._frame(self._lines(max(1, self._console.stderr.columns - 1)))
        self._frame([])

    def _frame(self, lines: list[str]) -> None:
        """Remove the last frame, print the finished files, and draw `lines` below them."""
        with suppress(OSError):
            if self._drawn_lines:
                self._console.stderr.write(f"\x1b[{self._drawn_lines}F\x1b[J")
            self._report()
            self._console.stderr.write("".join(f"{line}\n" for line in lines))
            self._drawn_lines = len(lines)

    def _lines(self, columns: int) -> list[str]:
        """Return the lines of the files and of the total. The figures are cut last, after bars and names."""
        with self._lock:
            files = [(one_line(name), done, total) for name, (done, total) in self._files.items()]
            all_bytes, speed = self._all_bytes, self._speed(time.monotonic())
        figures = [f"  {_of(done, total)}" for _, done, total in files]
        room = columns - max(map(len, figures), default=0)
        if room >= _BAR_COLUMNS + 4 + _LEAST_NAME_COLUMNS:
            figures = [
                f"  {_bar(done, total)}{figure}" for (_, done, total), figure in zip(files, figures, strict=True)
            ]
            room -= _BAR_COLUMNS + 4
        names = [cut(name, max(1, room)) for name, _, _ in files]
        width = max(map(cells, names), default=0)
        lines = [f"{name}{' ' * (width - cells(name))}{figure}" for name, figure in zip(names, figures, strict=True)]
        left_bytes = max(0, self._total_bytes - all_bytes)
        left = f", {duration_words(left_bytes / speed)} left" if speed >= 1 else ""
        total = f"Total: {_of(all_bytes, self._total_bytes)}, {size_words(int(speed))}/s{left}"
        return [cut(line, columns) for line in (*lines, total)]

    def _speed(self, now: float) -> float:
        """Return the recent bytes per second."""
        self._speeds.append((now, self._all_bytes))
        while now - self._speeds[0][0] > _SPEED_SECONDS:
            self._speeds.popleft()
        since, earlier_bytes = self._speeds[0]
        return (self._all_bytes - earlier_bytes) / (now - since) if now > since else 0.0


def _bar(done: int, total: int) -> str:
    full = min(_BAR_COLUMNS, _BAR_COLUMNS * done // max(total, 1))
    return f"[{'#' * full}{'.' * (_BAR_COLUMNS - full)}]"


def _of(done: int, total: int) -> str:
    return f"{size_words(done)} of {size_words(total)}"
