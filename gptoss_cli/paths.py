"""Paths that a user types, pastes or drops on the terminal. Any text is either a path or a UsageError.

Terminals quote the name of a file that is dropped on them, or escape its blanks; file managers copy a file:// URL.
"""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gptoss_cli.errors import UsageError

_IS_WINDOWS: Final = os.name == "nt"
_LOCAL_HOSTS: Final = ("", "localhost")
_LONGEST_SHOWN: Final = 200
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def typed_path(text: str | os.PathLike[str]) -> Path:
    """Return the path that `text` means.

    The first of these that exists, else the last one: the name as it stands, with a home folder for `~` or `~USER`, and
    without the quotes and backslashes of a shell. A file:// URL is the path in it. Never raises for a path that cannot
    be read, such as one that is too long. Raises UsageError for a text that no path can be.
    """
    name = os.fspath(text)
    if not name:
        raise UsageError("The name of a file or folder is empty")
    *_, last = candidates = list(_candidates(name))
    return Path(next((each for each in candidates if os.path.lexists(each)), last))


def typed_output(text: str | os.PathLike[str]) -> Path:
    """Return the path of a file to write, as `typed_path` does; `-` stays as it is."""
    return Path("-") if os.fspath(text) == "-" else typed_path(text)


def expanded(name: str) -> str:
    """Return `name` with a home folder for `~` or `~USER`, unchanged if there is none. Raises nothing."""
    try:
        return os.path.expanduser(name)
    except (KeyError, ValueError):  # a name that no user can have
        return name


def shown_path(path: str | os.PathLike[str]) -> str:
    """Return a path for a message: encodable, and shortened in the middle if it is very long."""
    text = _SURROGATES.sub("\ufffd", os.fspath(path))
    half = _LONGEST_SHOWN // 2
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:half]}...{text[-half:]}"


def _candidates(name: str) -> Iterator[str]:
    if name.lower().startswith("file://"):
        yield _checked(_in_url(name))
        return
    yield _checked(name)
    yield expanded(name)
    word = _unquoted(name)
    if word is not None:
        yield expanded(_checked(word))


def _checked(name: str) -> str:
    """Return `name`. Raises UsageError if the operating system cannot have such a name."""
    try:
        is_possible = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        is_possible = False
    if not name or not is_possible:
        raise UsageError("There can be no file with such a name: it is empty, or has a character that no name has")
    return name


def _in_url(url: str) -> str:
    """Return the path in a file:// URL (RFC 8089). Raises UsageError if it is a file of another machine."""
    host, slash, path = url[len("file://") :].partition("/")
    if host.lower() not in _LOCAL_HOSTS:
        raise UsageError("The file:// URL is of a file on another machine. Give the path of a file here")
    encoded = _checked(f"{slash}{path}").encode("utf-8", "surrogateescape")
    decoded = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), encoded)
    local = os.fsdecode(decoded)
    # On Windows the path follows the slash: file:///C:/x.
    return local[1:].replace("/", "\\") if _IS_WINDOWS and local[2:3] == ":" else local


def _unquoted(name: str) -> str | None:
    """Return the one word that a shell reads in `name`; None if it reads the same, none, or several."""
    text = name.strip()
    if _IS_WINDOWS:
        return text[1:-1] if len(text) > 2 and text[0] == text[-1] == '"' else None
    if not any(mark in text for mark in "'\"\\") and text == name:
        return None
    try:
        words = shlex.split(text)
    except ValueError:  # a quote that is not closed is part of the name
        return None
    return words[0] if len(words) == 1 and words[0] else None
