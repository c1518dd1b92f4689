"""A terminal in memory for a LiveRegion, with its scrollback."""

import io

import pyte

from gptoss_cli.terminal.live_region import LiveRegion


class Emulator(io.StringIO):
    """A terminal with scrollback, whose driver turns a newline into a carriage return and a line feed."""

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self.screen = pyte.HistoryScreen(columns, rows, history=100_000, ratio=0.5)
        self._feed = pyte.Stream(self.screen).feed

    def write(self, text: str) -> int:
        self._feed(text.replace("\n", "\r\n"))
        return super().write(text)

    @property
    def rows(self) -> list[str]:
        """Scrollback and screen, without spaces at the right and without empty rows at the end."""
        columns = range(self.screen.columns)
        above = ["".join(line[x].data for x in columns).rstrip() for line in self.screen.history.top]
        rows = above + [line.rstrip() for line in self.screen.display]
        while rows and not rows[-1]:
            rows.pop()
        return rows


class EmulatedScreen(LiveRegion):
    """A LiveRegion on an Emulator."""

    def __init__(self, columns: int = 80, rows: int = 24, *, colored: bool = False) -> None:
        self.terminal = Emulator(columns, rows)
        super().__init__(self.terminal, {}, colored=colored)

    @property
    def size(self) -> tuple[int, int]:
        return self.terminal.screen.columns, self.terminal.screen.lines
