"""Copying text to the clipboard."""

import base64
import shutil
import subprocess

from gptoss_cli.errors import Hint, UsageError
from gptoss_cli.terminal.console import Console

# A program with a variable works only if that is set.
_PROGRAMS = (
    ("WAYLAND_DISPLAY", ("wl-copy",)),
    ("DISPLAY", ("xclip", "-selection", "clipboard")),
    ("DISPLAY", ("xsel", "--clipboard", "--input")),
    (None, ("pbcopy",)),
    (None, ("clip.exe",)),
)
_TIMEOUT_SECONDS = 5


def copy(text: str, console: Console) -> None:
    """Copy `text` to the clipboard by a program, or else by an escape sequence of the terminal (OSC 52).

    Raises UsageError if there is neither.
    """
    for variable, command in _PROGRAMS:
        found = shutil.which(command[0])
        if found is None or (variable is not None and not console.environment.get(variable)):
            continue
        try:
            subprocess.run(
                [found, *command[1:]],
                input=text.encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_TIMEOUT_SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return
    if not console.draws:
        raise UsageError("There is no clipboard here", Hint.SAVE_ANSWER)
    # In base64, so that the text cannot control the terminal.
    console.stderr.write(f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\x07")
