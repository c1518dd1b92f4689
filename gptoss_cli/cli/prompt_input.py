"""Makes the prompt from words, files and a pipe. Reads no more of anything than some context could hold."""

import codecs
import json
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from gptoss_cli.cli.definition import LONGEST_CONTEXT_TOKENS
from gptoss_cli.errors import ResourceError, UsageError
from gptoss_cli.terminal.console import Console

if TYPE_CHECKING:
    from gptoss_cli.harmony.structured_output import OutputFormat

# No token of the vocabulary is longer than 128 bytes, but text averages four: what is over this fits no context.
_LARGEST_INPUT_BYTES = LONGEST_CONTEXT_TOKENS * 32
# Bytes that are no text, of a thousand, from which a pipe is taken for binary.
_BINARY_PER_MILLE = 100
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# Surrogates but those that Python makes of bytes it cannot decode.
_HALVES = re.compile("[\ud800-\udc7f\udd00-\udfff]")
# A shell hands these over for a pipe that has a writer; any other pipe might never get one.
_OPEN_ALREADY = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")


def prompt_text(words: list[str], console: Console, *, files: Sequence[Path] = ()) -> str:
    """The prompt: the words, then each file and the piped text in a fence it cannot close.

    Piped text alone is the prompt as it is. Raises UsageError if there is nothing to ask, a file cannot be read or
    what was read is no text; ResourceError if it fits no context.
    """
    asked = "" if words == ["-"] else whole_characters(" ".join(words))
    attached = [attachment(file, console) for file in files]
    piped = _piped_text(console) if words == ["-"] or not console.reads_terminal else ""
    asked, piped = (text if text.strip() else "" for text in (asked, piped))
    if not (asked or attached or piped):
        raise UsageError('There is no prompt. Try: gptoss ask "Why is the sky blue?", or pipe a text into it.')
    if not (asked or attached):
        return piped
    return "\n\n".join(part for part in (asked, *attached, _fenced(piped) if piped else "") if part)


def attachment(file: Path, console: Console) -> str:
    """The text in `file`, under its name and in a fence it cannot close. Raises what read_text_file raises."""
    return f"{_shown(file)}:\n{_fenced(read_text_file(file, console))}"


def read_text_file(file: Path, console: Console) -> str:
    """The text in `file`. Raises UsageError naming it, also for a folder, a device, or a pipe without a writer."""
    try:
        with _open_regular(file) as stream:
            data = stream.read(_LARGEST_INPUT_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise UsageError(f"{_shown(file)} cannot be read: {reason}.") from exc
    return _text(data, _shown(file), console)


def answer_form(schema: str | None, choice: str | None, console: Console) -> "OutputFormat | None":
    """The form that --schema (JSON, or a file of it) or --choice (words between commas) demands; None without either.

    Raises UsageError for what is no schema or no choice, or cannot be held to.
    """
    if schema is not None:
        text = schema if schema.lstrip().startswith("{") else read_text_file(Path(schema), console)
        try:
            wanted = json.loads(whole_characters(text))
        except (ValueError, RecursionError) as exc:
            raise UsageError(f"--schema is not JSON: {exc}. Give a JSON Schema, or a file with one.") from exc
        if not isinstance(wanted, dict):
            raise UsageError("--schema should be a JSON object. Give a JSON Schema, or a file with one.")
        from gptoss_cli.harmony.structured_output import OutputFormat

        return OutputFormat.of_schema(wanted)
    if choice is not None:
        choices = list(dict.fromkeys(whole_characters(each.strip()) for each in choice.split(",")))
        if not all(choices):
            raise UsageError("--choice has an empty choice. Write them with commas between: --choice yes,no")
        from gptoss_cli.harmony.structured_output import OutputFormat

        return OutputFormat.of_choices(choices)
    return None


def whole_characters(text: str) -> str:
    """`text` with what is no character replaced: bytes that were no UTF-8, and halves that Windows may give."""
    text = _HALVES.sub("\ufffd", text)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _open_regular(file: Path) -> BinaryIO:
    path = os.fspath(file.expanduser())
    # Without O_NONBLOCK opening a pipe waits for its writer. Windows has neither the flag nor such pipes.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        kind = os.fstat(handle).st_mode
        if stat.S_ISFIFO(kind) and path.startswith(_OPEN_ALREADY):
            os.set_blocking(handle, True)
        elif not stat.S_ISREG(kind):
            raise OSError(0, "it is a folder" if stat.S_ISDIR(kind) else "it is not a regular file")
        return os.fdopen(handle, "rb")
    except OSError:
        os.close(handle)
        raise


def _piped_text(console: Console) -> str:
    try:
        data = console.stdin.buffer.read(_LARGEST_INPUT_BYTES + 1) if console.stdin else b""
    except OSError as exc:
        raise UsageError(f"stdin cannot be read: {exc.strerror or exc}.") from exc
    return _text(data, "What was piped in", console)


def _text(data: bytes, name: str, console: Console) -> str:
    if len(data) > _LARGEST_INPUT_BYTES:
        limit = f"{_LARGEST_INPUT_BYTES // 2**20} MiB"
        raise ResourceError(f"{name} is over {limit}: more than any model's context holds. Give less of it.")
    encoding = "utf-8"
    for mark, marked in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            data, encoding = data.removeprefix(mark), marked
            break
    text = data.decode(encoding, "replace")
    broken = text.count("\ufffd") + text.count("\0")
    if broken * 1000 > len(text) * _BINARY_PER_MILLE:
        raise UsageError(f"{name} is not text. Give UTF-8 or UTF-16 text to gptoss ask.")
    if broken:
        console.notice(f"{name} is not all UTF-8: {broken} characters of it may be wrong.")
    return text


def _fenced(text: str) -> str:
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join((fence, text.rstrip("\n"), fence))


def _shown(file: Path) -> str:
    return whole_characters(os.fspath(file))
