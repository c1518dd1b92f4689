"""Text files that go along with a message."""

import os
import re
import stat
from pathlib import Path

from gptoss_cli.errors import UsageError

# No token is longer than 128 bytes, but text averages four: what is over this fits no context.
_LARGEST_FILE_BYTES = 4 << 20


def attachment(path: str) -> str:
    """The text of the file at `path`, under its name and in a fence it cannot close.

    Raises UsageError naming it, also for a folder, a device, a pipe, and what is no text.
    """
    from gptoss_cli.terminal.sanitize import one_line

    file = Path(path).expanduser()
    text = _read(file)
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join((f"{one_line(str(file))}:", fence, text.rstrip("\n"), fence))


def _read(file: Path) -> str:
    try:
        # Without O_NONBLOCK opening a pipe waits for its writer. Windows has neither the flag nor such pipes.
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UsageError(f"{file} is no regular file. Give the path of a text file.")
            with open(handle, "rb", closefd=False) as stream:
                data = stream.read(_LARGEST_FILE_BYTES + 1)
        finally:
            os.close(handle)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise UsageError(f"{file} cannot be read: {reason}. Give the path of a text file.") from exc
    if len(data) > _LARGEST_FILE_BYTES:
        limit = f"{_LARGEST_FILE_BYTES >> 20} MiB"
        raise UsageError(f"{file} is over {limit}: more than any model's context holds. Give less of it.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise UsageError(f"{file} is no UTF-8 text. Convert it, or give another file.") from exc
    if "\0" in text:
        raise UsageError(f"{file} is no text: there are NUL characters in it. Give another file.")
    return text
