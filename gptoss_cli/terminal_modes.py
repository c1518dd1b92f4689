"""The modes of the terminal as the program found them, to restore when it must end at once."""

import sys
from dataclasses import dataclass
from typing import TextIO

if sys.platform != "win32":
    import termios


@dataclass(frozen=True, slots=True)
class TerminalModes:
    """The modes of the terminal `handle`: flags for input, output, control and local modes, and control characters."""

    handle: int
    flags: tuple[int, int, int, int]
    characters: bytes


def current_modes(stream: TextIO | None) -> TerminalModes | None:
    """Return the modes of the terminal that `stream` is; None if it is none, and on Windows."""
    if sys.platform == "win32" or stream is None:
        return None
    try:
        handle = stream.fileno()
        modes = termios.tcgetattr(handle)
    except (OSError, ValueError, termios.error):
        return None
    # In non-canonical mode two of the characters are numbers.
    characters = bytes(each if isinstance(each, int) else each[0] for each in modes[6])
    return TerminalModes(handle, (modes[0], modes[1], modes[2], modes[3]), characters)
