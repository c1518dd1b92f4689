"""Runs a command on a terminal in memory of any size."""

from collections.abc import Callable
from typing import TextIO

from gptoss_cli.terminal.console import Console, Output
from tests.terminal.emulator import Emulator


class _Terminal(Emulator):
    def isatty(self) -> bool:
        return True


class _SizedOutput(Output):
    """An output that is as wide as its emulator, which has no file descriptor to ask."""

    def __init__(self, terminal: Emulator) -> None:
        stream: TextIO = terminal
        super().__init__(stream)
        self._columns = terminal.screen.columns

    @property
    def columns(self) -> int:
        return self._columns


def run_on_screen(
    command: Callable[[Console], None], *, columns: int, rows: int = 24, environment: dict[str, str] | None = None
) -> Emulator:
    """Run a command with stdout on a terminal of this size, and return the terminal."""
    terminal = _Terminal(columns, rows)
    console = Console(None, None, None, {"TERM": "xterm-256color"} if environment is None else environment)
    console.stdout = _SizedOutput(terminal)
    command(console)
    return terminal
