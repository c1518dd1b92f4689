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
from gptoss_cli.harmony.json_schema import SchemaError, too_deep
from gptoss_cli.harmony.structured_output import OutputFormat
from gptoss_cli.paths import typed_path
from gptoss_cli.terminal.console import Console

_OPEN_STREAMS = ("/dev/std", "/dev/fd/", "/proc/self/fd/")


def output_format(schema: str | None, choice: str | None, console: Console) -> OutputFormat | None:
    """Return the format for --schema (JSON, or a file with it) or --choice (words between commas); None for neither.

    Raises UsageError if it is not valid or not supported.
    """
    if schema is not None:
        text = schema if schema.lstrip().startswith("{") else read_text_file(typed_path(schema), console)
        try:
            value = json.loads(valid_text(text))
        except RecursionError as exc:
            raise UsageError(f"--schema {too_deep().complaint}.") from exc
        except ValueError as exc:
            raise UsageError(f"--schema is not JSON: {exc}. Give a JSON Schema, or a file with one.") from exc
        return _schema_format(value, console)
    if choice is not None:
        choices = list(dict.fromkeys(valid_text(each.strip()) for each in choice.split(",")))
        if not all(choices):
            raise UsageError("--choice has an empty choice. Separate choices with commas: --choice yes,no")
        return OutputFormat.of_choices(choices)
    return None


def _schema_format(schema: object, console: Console) -> OutputFormat:
    if not isinstance(schema, dict):
        raise UsageError("--schema should be a JSON object. Give a JSON Schema, or a file with one.")
    try:
        made = OutputFormat.of_schema(schema)
    except SchemaError as exc:
        raise UsageError(f"--schema {exc.complaint}.") from exc
    for name in made.ignored_formats:
        console.notice(f"--schema has the format {json.dumps(name, ensure_ascii=False)}, which is unknown and ignored.")
    return made


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
    elif _is_stdout(output):
        console.out(text)
    else:
        assert output is not None
        replace_file(output, text)


def check_output(output: Path | None) -> None:
    """Raise UsageError if the file `output` cannot be written, before any work is done for it."""
    if _is_stdout(output):
        return
    assert output is not None
    name, is_replaceable = printable_path(output), _is_replaceable(output)
    folder = os.path.dirname(_target(output))
    if os.path.isdir(output):
        raise UsageError(f"{name} is a folder. Name a file: -o FILE")
    if is_replaceable and not os.path.isdir(folder):
        raise UsageError(f"There is no folder {printable_path(Path(folder))} to write to. Check -o FILE.")
    try:
        os.lstat(output)
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise UsageError(f"{name} cannot be written: {exc.strerror}. Check -o FILE.") from exc
    if not os.access(folder if is_replaceable else output, os.W_OK):
        raise UsageError(f"{name} cannot be written: permission denied. Check -o FILE.")


def replace_file(output: Path, text: str) -> None:
    """Replace the content of `output` with `text` or leave it unchanged. A link stays a link; a device is written to.

    Raises ResourceError if it cannot be written, BrokenPipeError if nobody reads the pipe `output`.
    """
    data = text.encode("utf-8", "replace")
    try:
        if _is_replaceable(output):
            file = _target(output)
            mode = stat.S_IMODE(file.stat().st_mode) if file.exists() else files.public_mode()
            files.replace_file(file, data, mode=mode, sync=True)
        else:
            output.write_bytes(data)
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise ResourceError(
            f"{printable_path(output)} cannot be written: {exc.strerror or exc}. Check -o FILE."
        ) from exc


def _is_stdout(output: Path | None) -> bool:
    """Return True if `output` is this process's stdout, which /dev/stdout and /dev/fd/1 name too."""
    if output is None or os.fspath(output) == "-":
        return True
    try:
        return os.fspath(output).startswith(_OPEN_STREAMS) and os.path.samestat(os.stat(output), os.fstat(1))
    except OSError:
        return False


def _target(output: Path) -> Path:
    return Path(os.path.realpath(output))


def _is_replaceable(file: Path) -> bool:
    """Return True for a regular file, and for a name that is free."""
    return os.path.isfile(file) or not os.path.exists(file)
