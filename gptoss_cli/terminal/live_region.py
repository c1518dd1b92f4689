"""The end of the screen: lines that stay, and below them a few that are drawn again. Nothing else moves the cursor."""

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TextIO

from gptoss_cli.terminal.cells import Line, cells, fold, paint_line, text_of
from gptoss_cli.terminal.console import Console

_MOST_ROWS = 12
# These re-wrap what is on the screen when their width changes; of another terminal it must not be assumed.
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
    """Writes to a terminal that nobody else writes to meanwhile. Text must be neutralised already.

    May be used from several threads. Raises OSError where the terminal cannot be written.
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
        """Columns and rows, 80 by 24 where the terminal tells none."""
        try:
            columns, rows = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return 80, 24
        return columns or 80, rows or 24

    def show(self, stay: Sequence[Line], tail: Sequence[Line] = ()) -> None:
        """Write the lines that `stay`, each once, and below them the end of `tail` in place of the last one."""
        with self._lock:
            columns, rows = self.size
            most = max(1, min(_MOST_ROWS, rows - 1))
            folded = [row for line in tail for row in fold(line, columns)][-most:]
            text = self._change(self._tail or [[]], [*stay, *(folded or [[]])], columns)
            self._tail, self._columns = folded, columns
            if text:
                self._stream.write(text)
                self._stream.flush()

    def _change(self, old: Sequence[Line], new: Sequence[Line], columns: int) -> str:
        """What turns the rows `old` into `new`, from the end of the last to the end of the last."""
        same = self._same(old, new, columns)
        if same == len(old):
            return "".join(f"\n{self._painted(line)}" for line in new[same:])
        same = min(same, len(new) - 1)
        up = sum(self._rows(line, columns) for line in old[same:]) - 1
        back = "\r" + (f"\x1b[{up}A" if up else "") + "\x1b[J" if self._tail else ""
        return back + "\n".join(map(self._painted, new[same:]))

    def _same(self, old: Sequence[Line], new: Sequence[Line], columns: int) -> int:
        """How many rows can be left as they are: a line that stays may be one that was drawn."""
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

    def _painted(self, line: Line) -> str:
        return paint_line(line) if self._colored else text_of(line)


def open_screen(console: Console) -> LiveRegion | None:
    """The terminal that stdout and stderr are; None where nothing can be drawn over."""
    stream = console.stdout.stream
    if stream is None or not console.stdout.is_terminal or not console.draws:
        return None
    return LiveRegion(stream, console.environment, colored=console.colors)
