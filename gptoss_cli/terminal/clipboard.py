"""Puts text on the clipboard, when the user asks for it."""

import base64
import shutil
import subprocess

from gptoss_cli.errors import UsageError
from gptoss_cli.terminal.console import Console

# Each works only where its variable is set, if it has one.
_PROGRAMS = (
    ("WAYLAND_DISPLAY", ("wl-copy",)),
    ("DISPLAY", ("xclip", "-selection", "clipboard")),
    ("DISPLAY", ("xsel", "--clipboard", "--input")),
    (None, ("pbcopy",)),
    (None, ("clip.exe",)),
)
_PATIENCE_SECONDS = 5


def copy(text: str, console: Console) -> None:
    """By a program where there is one, else by asking the terminal. Raises UsageError where neither can be."""
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
                timeout=_PATIENCE_SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return
    if not console.draws:
        raise UsageError("There is no clipboard here. Try: /save FILE")
    # In base64, so nothing of the text itself reaches the terminal.
    console.stderr.write(f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\x07")
