"""`gptoss config`: show the settings and where each comes from, print the path of config.toml, or edit it."""

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from gptoss_cli import settings
from gptoss_cli.cli.config_file import ConfigFile, all_settings, as_typed, converted
from gptoss_cli.cli.json_output import write_json
from gptoss_cli.cli.options import ConfigAction
from gptoss_cli.errors import GptossError, UsageError
from gptoss_cli.terminal.console import Console

_HEADING = """\
# The settings of gptoss. A flag overrides an environment variable (GPTOSS_MODEL and so on), which overrides this file.
# To set one, remove the # before it.
"""


@dataclass(frozen=True, slots=True)
class _Setting:
    """The value of one setting, and its origin: a variable, a line of the file, or `default`."""

    key: str
    value: object
    origin: str


def run_config(action: ConfigAction, program: Any, console: Console, *, as_json: bool) -> None:
    """Run `gptoss config`. `program` is the Typer group with all commands."""
    if action is ConfigAction.PATH:
        console.out(f"{settings.config_file()}\n")
    elif action is ConfigAction.EDIT:
        _edit(program)
        ConfigFile(program, console).report()
    else:
        shown = list(_settings(program, console))
        if as_json:
            values = {each.key: {"value": each.value, "origin": each.origin} for each in shown}
            write_json({"settings": values}, console)
        else:
            console.out(_table(shown))


def _settings(program: Any, console: Console) -> Iterator[_Setting]:
    file = settings.config_file()
    config_toml = ConfigFile(program, console)
    config_toml.report()
    entries = config_toml.load()
    for key, option in all_settings(program).items():
        variable = os.environ.get(option.envvar)
        entry = entries.get(key)
        if variable:
            yield _Setting(key, _as_written(option, variable), option.envvar)
        elif entry is not None:
            yield _Setting(key, _as_written(option, as_typed(entry.value)), f"{file}, line {entry.line}")
        else:
            yield _Setting(key, _plain(option.default), "default")


def _as_written(option: Any, value: object) -> object:
    """Return a value as the file has it. A size stays text, because a number of bytes would be refused there."""
    plain = _plain(converted(option, value))
    return value if option.metavar == "SIZE" else plain


def _plain(value: object) -> object:
    return value.value if isinstance(value, Enum) else value


def _table(shown: list[_Setting]) -> str:
    """Return the settings as TOML with their origins as comments; a setting without a value is a comment."""
    assigned = [_assignment(each.key, each.value) for each in shown]
    width = max(map(len, assigned))
    return "".join(f"{text:<{width}}  # {each.origin}\n" for text, each in zip(assigned, shown, strict=True))


def _assignment(key: str, value: object) -> str:
    # A JSON string is a TOML string.
    return f"# {key} =" if value is None else f"{key} = {json.dumps(value, ensure_ascii=False)}"


def _edit(program: Any) -> None:
    file = settings.config_file()
    try:
        if not file.exists():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.write_text(_template(program), "utf-8")
        editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or _default_editor())
        status = subprocess.run([*editor, os.fspath(file)]).returncode
    except ValueError as exc:
        raise UsageError(f"EDITOR cannot be read as a command: {exc}. Set it to one, such as nano") from exc
    except OSError as exc:
        raise UsageError(f"{exc.filename or file}: {exc.strerror}. Set EDITOR, or edit {file} yourself") from exc
    if status != 0:
        raise GptossError(f"The editor ended with status {status} and left {file} as it is now")


def _default_editor() -> str:
    return "notepad" if os.name == "nt" else "vi"


def _template(program: Any) -> str:
    parts = [_HEADING]
    for key, option in all_settings(program).items():
        assignment = _assignment(key, _plain(option.default)).removeprefix("# ")
        choices = f" ({option.metavar})" if option.metavar else ""
        parts.append(f"# {option.help}{choices}\n# {assignment}\n")
    return "\n".join(parts)
