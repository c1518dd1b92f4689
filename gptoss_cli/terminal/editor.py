"""Editing a text with the editor that the user has chosen."""

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from gptoss_cli.errors import UsageError

# Tried in this order if the environment names none.
_EDITORS: Final = ("editor", "nano", "pico", "vi", "emacs")


def edited(text: str, environment: Mapping[str, str]) -> str:
    """Return `text` as the user saved it in an editor, without the newline at its end. Blocks until the editor ends.

    Raises UsageError if no editor can be started or it fails, OSError if there is no place for the file.
    """
    handle, name = tempfile.mkstemp(prefix="gptoss-", suffix=".md")
    try:
        with open(handle, "wb") as file:
            file.write(text.encode("utf-8", "replace"))
        _run_first(_commands(environment), name)
        with open(name, "rb") as file:
            return file.read().decode("utf-8", "replace").replace("\r\n", "\n").removesuffix("\n")
    finally:
        with suppress(OSError):
            os.unlink(name)


def _commands(environment: Mapping[str, str]) -> list[list[str]]:
    """Return the command that the environment names, or else those that are usual."""
    for variable in ("VISUAL", "EDITOR"):
        value = environment.get(variable, "").strip()
        if value:
            try:
                return [shlex.split(value)]
            except ValueError as exc:
                raise UsageError(f"{variable} is not a command: {value}") from exc
    return [[each] for each in _EDITORS]


def _run_first(commands: Sequence[Sequence[str]], file: str) -> None:
    """Run the first command that can be started."""
    for command in commands:
        try:
            status = subprocess.call([*command, file])
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise UsageError(f"The editor {command[0]} cannot be started: {exc.strerror}. Set EDITOR") from exc
        if status < 0:
            raise UsageError(f"The editor {command[0]} was ended by {signal.Signals(-status).name}.")
        if status:
            raise UsageError(f"The editor {command[0]} failed with exit status {status}.")
        return
    tried = " or ".join(command[0] for command in commands)
    raise UsageError(f"There is no editor {tried}. Set EDITOR")
