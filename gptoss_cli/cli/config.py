"""Standing preferences: what config.toml may set, and `gptoss config`. A flag beats a variable beats the file."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from gptoss_cli import settings
from gptoss_cli.cli.definition import command
from gptoss_cli.errors import GptossError, UsageError
from gptoss_cli.settings import Entry
from gptoss_cli.terminal.console import Console

# These must work while config.toml is being mended.
_WITHOUT_CONFIG = {"config", "completions"}
_HEADING = """\
# The standing preferences of gptoss. A flag wins over a variable (GPTOSS_MODEL and so on), which wins over this file.
# To set one, take away the # before it.
"""


class ConfigAction(StrEnum):
    """What `gptoss config` does."""

    SHOW = "show"
    PATH = "path"
    EDIT = "edit"


@dataclass(frozen=True, slots=True)
class Setting:
    """One preference as it stands, and what set it."""

    key: str
    value: object
    origin: str


@command
def config(
    action: Annotated[
        ConfigAction, typer.Argument(help="Show the settings, print the file's path, or edit it.", show_default=True)
    ] = ConfigAction.SHOW,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="With show: one JSON object.")] = False,
    invocation: typer.Context,
    console: Console,
) -> None:
    """Show every standing preference and where it comes from, or edit config.toml."""
    program = invocation.find_root().command
    if action is ConfigAction.PATH:
        console.out(f"{settings.config_file()}\n")
    elif action is ConfigAction.EDIT:
        _edit(program)
        ConfigFile(program, console).report()
    else:
        shown = list(_settings(program, console))
        told = {"version": 1, "settings": {each.key: {"value": each.value, "origin": each.origin} for each in shown}}
        console.out(json.dumps(told, ensure_ascii=False) + "\n" if as_json else _table(shown))


class ConfigFile:
    """config.toml, read when it is first asked for: what needs no preference is not hindered by a mistake in it."""

    def __init__(self, program: Any, console: Console) -> None:
        self._program = program
        self._console = console
        self._entries: dict[str, Entry] | None = None
        self._unknown: dict[str, Entry] = {}

    def load(self) -> dict[str, Entry]:
        """What is set, checked. Raises UsageError with file and line."""
        if self._entries is None:
            file = settings.config_file()
            entries = settings.read_config(file)
            known = _preferences(self._program) if entries else {}
            for key in entries.keys() & known.keys():
                _check(file, key, entries[key], known[key])
            self._unknown = {key: entry for key, entry in entries.items() if key not in known}
            self._entries = {key: entry for key, entry in entries.items() if key in known}
        return self._entries

    def report(self) -> None:
        """Raise what is wrong with the file, and warn of every key that nobody knows."""
        self.load()
        if self._unknown:
            from difflib import get_close_matches
        for key, entry in self._unknown.items():
            close = get_close_matches(key, _preferences(self._program), n=1)
            hint = f"Did you mean {close[0]}?" if close else "To see those there are: gptoss config"
            place = f"{settings.config_file()}, line {entry.line}"
            self._console.notice(f"{place}: there is no setting {key}. {hint}")

    def of_commands(self) -> dict[str, Any]:
        """Command -> its defaults, in the form that Typer reads."""
        return {name: _Defaults(self, self._program, name) for name in self._program.commands.keys() - _WITHOUT_CONFIG}


class _Defaults:
    """The part of the file that one command takes; an argument of the same name is not part of it."""

    def __init__(self, file: ConfigFile, program: Any, name: str) -> None:
        self._file = file
        self._program = program
        self._name = name

    @cached_property
    def _keys(self) -> dict[str, str]:
        """Parameter -> its key in the file. Only now: it makes the command."""
        command = self._program.commands[self._name]
        return {parameter.name: _key(parameter) for parameter in command.params if _is_preference(parameter)}

    def get(self, name: str, default: object = None) -> object:
        """What the file sets for a parameter, else `default`. Help asks too, so a mistake is left to `report`."""
        key = self._keys.get(name)
        with suppress(UsageError):
            entry = self._file.load().get(key) if key else None
            return default if entry is None else _given(entry.value)
        return default

    def report(self) -> None:
        """Raise or warn of what is wrong with the file, once a command that takes preferences really runs."""
        if self._keys:
            self._file.report()


def _preferences(program: Any) -> dict[str, Any]:
    """Key -> the option it sets, of all commands."""
    options = (each for command in (program, *program.commands.values()) for each in command.params)
    return {_key(option): option for option in options if _is_preference(option)}


def _is_preference(parameter: Any) -> bool:
    return isinstance(parameter.envvar, str) and parameter.envvar.startswith("GPTOSS_")


def _key(option: Any) -> str:
    flags: list[str] = option.opts
    return max(flags, key=len).removeprefix("--")


def _given(value: object) -> object:
    # As if it had been typed: Typer would make 1 of 1.5 for an integer.
    return value if isinstance(value, str) else str(value)


def _check(file: Path, key: str, entry: Entry, option: Any) -> None:
    place = f"{file}, line {entry.line}: {key}"
    if not isinstance(entry.value, str | int | float):
        raise UsageError(f"{place} should be one value. Run: gptoss config edit")
    if option.type_descriptor.annotation not in (int, float) and not isinstance(entry.value, str):
        raise UsageError(f"{place} should be text in quotes. Run: gptoss config edit")
    try:
        _converted(option, _given(entry.value))
    except typer.BadParameter as exc:
        reason = exc.message.removeprefix("Value error, ").removesuffix(".")
        raise UsageError(f"{place}: {reason}. Run: gptoss config edit") from exc


def _converted(option: Any, value: object) -> object:
    return option.process_value(typer.Context(TyperCommand(None)), value)


def _settings(program: Any, console: Console) -> Iterator[Setting]:
    file = settings.config_file()
    config_toml = ConfigFile(program, console)
    config_toml.report()
    entries = config_toml.load()
    for key, option in _preferences(program).items():
        variable = os.environ.get(option.envvar)
        entry = entries.get(key)
        if variable:
            yield Setting(key, _plain(_converted(option, variable)), option.envvar)
        elif entry is not None:
            yield Setting(key, _plain(_converted(option, _given(entry.value))), f"{file}, line {entry.line}")
        else:
            yield Setting(key, _plain(option.default), "default")


def _plain(value: object) -> object:
    return value.value if isinstance(value, Enum) else value


def _table(shown: list[Setting]) -> str:
    """The settings as TOML, with their origin in a comment; those without a value are a comment altogether."""
    assigned = [_assignment(each.key, each.value) for each in shown]
    width = max(map(len, assigned))
    return "".join(f"{text:<{width}}  # {each.origin}\n" for text, each in zip(assigned, shown, strict=True))


def _assignment(key: str, value: object) -> str:
    # A JSON string is a TOML string.
    return f"# {key} =" if value is None else f"{key} = {json.dumps(value, ensure_ascii=False)}"


def _edit(program: Any) -> None:
    import shlex
    import subprocess

    file = settings.config_file()
    try:
        if not file.exists():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.write_text(_template(program), "utf-8")
        editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or _usual_editor())
        status = subprocess.run([*editor, os.fspath(file)]).returncode
    except ValueError as exc:
        raise UsageError(f"EDITOR cannot be read as a command: {exc}. Set it to one, such as nano.") from exc
    except OSError as exc:
        raise UsageError(f"{exc.filename or file}: {exc.strerror}. Set EDITOR, or edit {file} yourself.") from exc
    if status != 0:
        raise GptossError(f"The editor ended with status {status}. {file} is as it left it.")


def _usual_editor() -> str:
    return "notepad" if os.name == "nt" else "vi"


def _template(program: Any) -> str:
    parts = [_HEADING]
    for key, option in _preferences(program).items():
        assignment = _assignment(key, _plain(option.default)).removeprefix("# ")
        choices = f" ({option.metavar})" if option.metavar else ""
        parts.append(f"# {option.help}{choices}\n# {assignment}\n")
    return "\n".join(parts)
