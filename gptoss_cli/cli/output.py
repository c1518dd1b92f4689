"""The output that was requested: the format of the answer, its first code block, and the file it is written to."""

import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from gptoss_cli import files
from gptoss_cli.cli.prompt_input import printable_path, read_text_file, valid_text
from gptoss_cli.errors import GptossError, ResourceError, UsageError
from gptoss_cli.harmony.events import AnswerDelta, Event
from gptoss_cli.harmony.structured_output import OutputFormat
from gptoss_cli.terminal.console import Console


def output_format(schema: str | None, choice: str | None, console: Console) -> OutputFormat | None:
    """Return the format for --schema (JSON, or a file with it) or --choice (words between commas); None for neither.

    Raises UsageError if it is not valid or not supported.
    """
    if schema is not None:
        text = schema if schema.lstrip().startswith("{") else read_text_file(Path(schema), console)
        try:
            value = json.loads(valid_text(text))
        except (ValueError, RecursionError) as exc:
            raise UsageError(f"--schema is not JSON: {exc}. Give a JSON Schema, or a file with one.") from exc
        if not isinstance(value, dict):
            raise UsageError("--schema should be a JSON object. Give a JSON Schema, or a file with one.")
        return OutputFormat.of_schema(value)
    if choice is not None:
        choices = list(dict.fromkeys(valid_text(each.strip()) for each in choice.split(",")))
        if not all(choices):
            raise UsageError("--choice has an empty choice. Separate choices with commas: --choice yes,no")
        return OutputFormat.of_choices(choices)
    return None


def without_answer(events: Iterable[Event]) -> Iterator[Event]:
    """Yield all `events` but the text of the answer."""
    return (event for event in events if not isinstance(event, AnswerDelta))


def code_block(answer: str, language: str) -> str:
    """Return the first fenced code block of a Markdown text, in `language` unless that is empty.

    A block that is not closed ends with the text. Raises GptossError if there is none that has code in it.
    """
    # Only here: the Markdown parser takes longer to import than an answer may wait.
    from gptoss_cli.terminal.markdown.extract import first_code_block

    code = first_code_block(answer, language)
    if code is not None:
        return code
    wanted = f"code block in {language}" if language else "code block"
    raise GptossError(f"The answer has no {wanted}. Ask for one, or leave --extract out.")


def write_answer(text: str, output: Path | None, console: Console, *, is_markdown: bool = False) -> None:
    """Write `text` to the file `output`, or to stdout for None or `-`. A terminal gets Markdown rendered.

    Raises GptossError or BrokenPipeError.
    """
    if output is None and is_markdown and console.renders_on(console.stdout):
        from gptoss_cli.terminal.turn_rendered import show_rendered_answer

        show_rendered_answer(text, console)
    elif output is None or os.fspath(output) == "-":
        console.out(text)
    else:
        replace_file(output, text)


def check_output(output: Path | None) -> None:
    """Raise UsageError if the file `output` cannot be written, before any work is done for it."""
    if output is None or os.fspath(output) == "-":
        return
    file = _target(output)
    if file.is_dir():
        raise UsageError(f"{printable_path(output)} is a folder. Name a file: -o FILE")
    if not file.parent.is_dir():
        raise UsageError(f"There is no folder {printable_path(file.parent)} to write to. Check -o FILE.")
    if not os.access(file.parent if _is_replaceable(file) else file, os.W_OK):
        raise UsageError(f"{printable_path(output)} cannot be written: permission denied. Check -o FILE.")


def replace_file(output: Path, text: str) -> None:
    """Replace the content of `output` with `text` or leave it unchanged. A link stays a link; a device is written to.

    Raises ResourceError if it cannot be written.
    """
    file = _target(output)
    data = text.encode("utf-8", "replace")
    try:
        if _is_replaceable(file):
            mode = stat.S_IMODE(file.stat().st_mode) if file.exists() else files.public_mode()
            files.replace_file(file, data, mode=mode, sync=True)
        else:
            file.write_bytes(data)
    except OSError as exc:
        raise ResourceError(
            f"{printable_path(output)} cannot be written: {exc.strerror or exc}. Check -o FILE."
        ) from exc


def _target(output: Path) -> Path:
    return Path(os.path.realpath(output.expanduser()))


def _is_replaceable(file: Path) -> bool:
    return not file.exists() or file.is_file()
