"""Live output at the bottom of the terminal: final lines, and below them a few that are redrawn."""

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TextIO

from gptoss_cli.terminal.cells import Line, cells, fold, style_line, text_of
from gptoss_cli.terminal.console import Console

_MAX_ROWS = 12
# Set by terminals that re-wrap lines when their width changes. Others are assumed not to.
_REWRAPPING = (
    "TMUX",
    "VTE_VERSION",
    "KITTY_WINDOW_ID",
    "WEZTERM_PANE",
    "ALACRITTY_WINDOW_ID",
    "KONSOLE_VERSION",
    "WT_SESSION",
)


class LiveRegion:
    """The only writer to a terminal while it is in use. Its text must be neutralised.

    Its methods may be called from any thread. They raise OSError if the terminal cannot be written.
    """

    def __init__(self, stream: TextIO, environment: Mapping[str, str], *, colored: bool) -> None:
        self._stream = stream
        self._colored = colored
        self._rewraps = any(name in environment for name in _REWRAPPING)
        self._lock = threading.RLock()
        self._tail: list[Line] = []
        self._columns = self.size[0]

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of the terminal, 80 and 24 if they are unknown."""
        try:
            columns, rows = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return 80, 24
        return columns or 80, rows or 24

    def show(self, final: Sequence[Line], tail: Sequence[Line] = ()) -> None:
        """Print the `final` lines, and below them the end of `tail` in place of the previous tail."""
        with self._lock:
            columns, rows = self.size
            limit = max(1, min(_MAX_ROWS, rows - 1))
            folded = [row for line in tail for row in fold(line, columns)][-limit:]
            text = self._update(self._tail or [[]], [*final, *(folded or [[]])], columns)
            self._tail, self._columns = folded, columns
            if text:
                self._stream.write(text)
                self._stream.flush()

    def _update(self, old: Sequence[Line], new: Sequence[Line], columns: int) -> str:
        """Return the text that turns the rows `old` into `new`; the cursor is at the end of the last row."""
        same = self._common_rows(old, new, columns)
        if same == len(old):
            return "".join(f"\n{self._styled(line)}" for line in new[same:])
        same = min(same, len(new) - 1)
        up = sum(self._rows(line, columns) for line in old[same:]) - 1
        # For one row "\x1b[K" is enough. In the first row of the screen, tmux keeps what "\x1b[J" erases as history.
        erase = f"\x1b[{up}A\x1b[J" if up else "\x1b[K"
        back = f"\r{erase}" if self._tail else ""
        return back + "\n".join(map(self._styled, new[same:]))

    def _common_rows(self, old: Sequence[Line], new: Sequence[Line], columns: int) -> int:
        """Return how many rows are the same: a final line may already have been drawn as part of the tail."""
        count = 0
        for before, now in zip(old, new, strict=False):
            if columns != self._columns or before != now or cells(text_of(now)) > columns:
                break
            count += 1
        return count

    def _rows(self, line: Line, columns: int) -> int:
        if columns == self._columns or not self._rewraps:
            return 1
        return max(1, -(-cells(text_of(line)) // columns))

    def _styled(self, line: Line) -> str:
        return style_line(line) if self._colored else text_of(line)


def open_screen(console: Console) -> LiveRegion | None:
    """Return a live region on the terminal of stdout and stderr; None if text on it cannot be overwritten."""
    stream = console.stdout.stream
    if stream is None or not console.stdout.is_terminal or not console.draws:
        return None
    return LiveRegion(stream, console.environment, colored=console.colors)
