"""Where an answer goes: to stdout as it is made, or whole, in part, as JSON or into a file once it is there."""

import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gptoss_cli.cli.prompt_input import whole_characters
from gptoss_cli.errors import GptossError, ResourceError, UsageError
from gptoss_cli.terminal.console import Console

if TYPE_CHECKING:
    from gptoss_cli.harmony.events import Event

_FENCE = re.compile(r"(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>.*)")


class Transcript:
    """What was said in a turn. Several answers are one, with a newline between them."""

    def __init__(self) -> None:
        self._answer: list[str] = []
        self._reasoning: list[str] = []
        self._is_over = False

    @property
    def answer(self) -> str:
        return "".join(self._answer)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    def watch(self, events: Iterable["Event"]) -> Iterator["Event"]:
        """Pass `events` on and keep what they say."""
        from gptoss_cli.harmony.events import AnswerDelta, MessageEnd, ReasoningDelta

        for event in events:
            if isinstance(event, AnswerDelta):
                if self._is_over and self._answer:
                    self._answer.append("\n")
                self._is_over = False
                self._answer.append(event.text)
            elif isinstance(event, ReasoningDelta):
                self._reasoning.append(event.text)
            elif isinstance(event, MessageEnd):
                self._is_over = True
            yield event


def without_answer(events: Iterable["Event"]) -> Iterator["Event"]:
    """All `events` but the pieces of the answer."""
    from gptoss_cli.harmony.events import AnswerDelta

    return (event for event in events if not isinstance(event, AnswerDelta))


def code_block(answer: str, language: str) -> str:
    """The first fenced block of a Markdown text, of `language` unless that is empty; one left open ends with the text.

    Raises GptossError if there is none.
    """
    lines = iter(answer.splitlines(keepends=True))
    for line in lines:
        opening = _FENCE.match(line)
        if opening is None:
            continue
        block = list(_until_closed(lines, opening["fence"], len(opening["indent"])))
        named = opening["info"].split()
        if not language or (named and named[0].lower() == language.lower()):
            return "".join(block)
    wanted = f"code block in {language}" if language else "code block"
    raise GptossError(f"The answer has no {wanted}. Ask for one, or leave --extract out.")


def _until_closed(lines: Iterator[str], fence: str, indent: int) -> Iterator[str]:
    for line in lines:
        closing = _FENCE.match(line)
        if closing and closing["fence"].startswith(fence) and not closing["info"].strip():
            return
        yield line[min(indent, len(line) - len(line.lstrip(" "))) :]


def write_whole(text: str, output: Path | None, console: Console) -> None:
    """Write `text` to `output`, or to stdout where that is None or `-`. Raises what these two raise."""
    if output is None or os.fspath(output) == "-":
        console.out(text)
    else:
        replace_file(output, text)


def refuse_unwritable(output: Path | None) -> None:
    """Raise UsageError for a file that could not be written, before anything is done for it."""
    if output is None or os.fspath(output) == "-":
        return
    file = _target(output)
    if file.is_dir():
        raise UsageError(f"{_shown(output)} is a folder. Name a file: -o FILE")
    if not file.parent.is_dir():
        raise UsageError(f"There is no folder {_shown(file.parent)} to write into. Check -o FILE.")
    if not os.access(file.parent if _is_replaceable(file) else file, os.W_OK):
        raise UsageError(f"{_shown(output)} cannot be written: permission denied. Check -o FILE.")


def replace_file(output: Path, text: str) -> None:
    """Make `text` the content of `output`, or leave it as it is. A link stays one; a device is written to.

    Raises ResourceError where it cannot be written.
    """
    file = _target(output)
    data = text.encode("utf-8", "replace")
    try:
        if _is_replaceable(file):
            _replace(file, data)
        else:
            file.write_bytes(data)
    except OSError as exc:
        raise ResourceError(f"{_shown(output)} cannot be written: {exc.strerror or exc}. Check -o FILE.") from exc


def _replace(file: Path, data: bytes) -> None:
    mode = stat.S_IMODE(file.stat().st_mode) if file.exists() else 0o666 & ~_umask()
    handle, name = tempfile.mkstemp(prefix=f".{file.name[:100]}.", dir=file.parent)
    try:
        with open(handle, "wb") as temporary:
            temporary.write(data)
            temporary.flush()
            os.fsync(handle)
        os.chmod(name, mode)
        os.replace(name, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _target(output: Path) -> Path:
    return Path(os.path.realpath(output.expanduser()))


def _is_replaceable(file: Path) -> bool:
    return not file.exists() or file.is_file()


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _shown(file: Path) -> str:
    return whole_characters(os.fspath(file))
