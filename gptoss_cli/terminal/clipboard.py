"""Copying text to the clipboard."""

import base64
import codecs
import shutil
import subprocess

from gptoss_cli.errors import Hint, UsageError
from gptoss_cli.terminal.console import Console
from gptoss_cli.units import counted

# A program with a variable works only if that is set.
_PROGRAMS = (
    ("WAYLAND_DISPLAY", ("wl-copy",)),
    ("DISPLAY", ("xclip", "-selection", "clipboard")),
    ("DISPLAY", ("xsel", "--clipboard", "--input")),
    (None, ("pbcopy",)),
    (None, ("clip.exe",)),
)
_TIMEOUT_SECONDS = 5


def copy(text: str, console: Console) -> str:
    """Copy `text` to the clipboard: by a program, else by tmux, else by an escape sequence of the terminal (OSC 52).

    Returns a sentence that says where it is and promises no more than is known. Raises UsageError if there is no way.
    """
    count = counted(len(text), "character")
    for variable, command in _PROGRAMS:
        if variable is None or console.environment.get(variable):
            encoded = _utf16(text) if command[0] == "clip.exe" else text.encode("utf-8", "replace")
            if _given_to(command, encoded):
                return f"Copied {count}."
    if console.environment.get("TMUX"):
        data = text.encode("utf-8", "replace")
        # With its defaults tmux ignores the escape sequence of a program, but sends its own for this option.
        if _given_to(("tmux", "load-buffer", "-w", "-"), data):
            return f"Copied {count} to tmux, which passes the text on to the clipboard if the terminal allows it."
        if _given_to(("tmux", "load-buffer", "-"), data):
            return f"Copied {count} to the buffer of tmux: its prefix key and ] paste it."
    if not console.draws:
        raise UsageError("There is no clipboard here", Hint.SAVE_ANSWER)
    # In base64, so that the text cannot control the terminal.
    console.stderr.write(f"\x1b]52;c;{base64.b64encode(text.encode('utf-8', 'replace')).decode()}\x07")
    return f"Sent {count} to the terminal, which puts the text on the clipboard if it allows that."


def _given_to(command: tuple[str, ...], data: bytes) -> bool:
    """Run `command` with `data` on stdin; return False if there is no such program or it fails."""
    found = shutil.which(command[0])
    if found is None:
        return False
    try:
        subprocess.run(
            [found, *command[1:]],
            input=data,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _utf16(text: str) -> bytes:
    """Return `text` as Windows programs expect it: they take UTF-8 for the code page of the console."""
    return codecs.BOM_UTF16_LE + text.encode("utf-16-le", "replace")
