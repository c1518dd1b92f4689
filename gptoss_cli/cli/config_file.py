"""config.toml as defaults of the commands. A flag beats an environment variable, which beats the file."""

import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from gptoss_cli import settings
from gptoss_cli.cli.refusals import option_name, refusal
from gptoss_cli.errors import Hint, UsageError
from gptoss_cli.terminal.console import Console

_LARGEST_FILE_BYTES = 1 << 20
# Commands that must work while config.toml is being repaired.
_WITHOUT_CONFIG = {"config", "completions"}
# Settings that stand in a table of config.toml: their variables begin with its name.
_TABLES = ("history",)


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of config.toml: its TOML value and its line number."""

    value: object
    line: int


class ConfigFile:
    """config.toml, read when a setting is first needed, so that a mistake in it stops no command without settings."""

    def __init__(self, program: Any, console: Console) -> None:
        self._program = program
        self._console = console
        self._entries: dict[str, Entry] | None = None
        self._unknown: dict[str, Entry] = {}

    def load(self) -> dict[str, Entry]:
        """Return the known settings of the file, checked. Raises UsageError with file and line."""
        if self._entries is None:
            file = settings.config_file()
            entries = read_config(file)
            known = all_settings(self._program) if entries else {}
            for key in entries.keys() & known.keys():
                _check(file, key, entries[key], known[key])
            self._unknown = {key: entry for key, entry in entries.items() if key not in known}
            self._entries = {key: entry for key, entry in entries.items() if key in known}
        return self._entries

    def report(self) -> None:
        """Raise UsageError for a mistake in the file, and warn of unknown keys."""
        self.load()
        for key, entry in self._unknown.items():
            close = get_close_matches(key, all_settings(self._program), n=1)
            advice = f"Did you mean {close[0]}?" if close else "To see the settings: gptoss config"
            location = f"{settings.config_file()}, line {entry.line}"
            self._console.notice(f"{location}: there is no setting {key}. {advice}")

    def of_commands(self) -> dict[str, Any]:
        """Return command name -> its defaults, as Typer's `default_map`."""
        commands = self._program.commands
        defaults: dict[str, Any] = {name: _Defaults(self, commands, name) for name in commands.keys() - _WITHOUT_CONFIG}
        for name, inner in commands.groups.items():
            defaults[name] = {each: _Defaults(self, inner, each) for each in inner}
        return defaults


class _Defaults:
    """The settings of one command. Its arguments are not settings, even if the file has a key of that name."""

    def __init__(self, file: ConfigFile, commands: Mapping[str, Any], name: str) -> None:
        self._file = file
        self._commands = commands
        self._name = name

    @cached_property
    def _keys(self) -> dict[str, str]:
        """Parameter -> its key in the file. Cached here and not computed before: it builds the command."""
        command = self._commands[self._name]
        return {parameter.name: setting_key(parameter) for parameter in command.params if _is_setting(parameter)}

    def get(self, name: str, default: object = None) -> object:
        """Return the file's value of a parameter, else `default`. Help needs it too, so `report` raises mistakes."""
        key = self._keys.get(name)
        with suppress(UsageError):
            entry = self._file.load().get(key) if key else None
            return default if entry is None else as_typed(entry.value)
        return default

    def report(self) -> None:
        """Raise or warn of mistakes in the file; called when a command really runs."""
        if self._keys:
            self._file.report()


def all_settings(program: Any) -> dict[str, Any]:
    """Return key -> the option that it sets, of all commands."""
    options = (each for command in (program, *program.commands.values()) for each in command.params)
    return {setting_key(option): option for option in options if _is_setting(option)}


def setting_key(option: Any) -> str:
    """Return the key of an option in config.toml; one in a table begins with its name and a dot."""
    for table in _TABLES:
        prefix = f"GPTOSS_{table.upper()}_"
        if option.envvar.startswith(prefix):
            return f"{table}.{option.envvar.removeprefix(prefix).lower().replace('_', '-')}"
    return option_name(option).removeprefix("--")


def as_typed(value: object) -> object:
    """Return a value of config.toml as if it had been typed: Typer would make 1 of the number 1.5 for an integer."""
    return value if isinstance(value, str) else str(value)


def converted(option: Any, value: object) -> object:
    """Return `value` as the option's type. Raises typer.BadParameter."""
    return option.process_value(typer.Context(TyperCommand(None)), value)


def _is_setting(parameter: Any) -> bool:
    return isinstance(parameter.envvar, str) and parameter.envvar.startswith("GPTOSS_")


def _check(file: Path, key: str, entry: Entry, option: Any) -> None:
    location = f"{file}, line {entry.line}"
    if not isinstance(entry.value, str | int | float):
        raise UsageError(f"{location}: {key} should be one value", Hint.EDIT_SETTINGS)
    kind = option.type_descriptor.annotation
    if kind is bool and not isinstance(entry.value, bool):
        raise UsageError(f"{location}: {key} should be true or false", Hint.EDIT_SETTINGS)
    if kind not in (bool, int, float) and not isinstance(entry.value, str):
        raise UsageError(f"{location}: {key} should be text in quotes", Hint.EDIT_SETTINGS)
    try:
        converted(option, as_typed(entry.value))
    except typer.BadParameter as exc:
        exc.param = option
        reason = refusal(exc, key, entry.value, verb="should be")
        raise UsageError(f"{location}: {reason}", Hint.EDIT_SETTINGS) from exc


def read_config(file: Path) -> dict[str, Entry]:
    """Return the keys of a TOML file; none if there is no such file. Raises UsageError with file and line."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_LARGEST_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as exc:
        raise UsageError(f"{file} cannot be read: {exc.strerror or exc}", Hint.EDIT_SETTINGS) from exc
    if len(data) > _LARGEST_FILE_BYTES:
        raise UsageError(f"{file} is over 1 MiB, too long for settings. Shorten it")
    try:
        text = data.decode("utf-8-sig")
        values = tomllib.loads(text)
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise UsageError(f"{file}, line {line}: not UTF-8", Hint.EDIT_SETTINGS) from exc
    except RecursionError as exc:
        raise UsageError(f"{file} is nested too deeply", Hint.EDIT_SETTINGS) from exc
    except tomllib.TOMLDecodeError as exc:
        raise UsageError(f"{file}, {_toml_problem(str(exc), text)}", Hint.EDIT_SETTINGS) from exc
    entries: dict[str, Entry] = {}
    for key, value in values.items():
        if key in _TABLES and isinstance(value, dict):
            # The keys of a table have hyphens, like options; underscores, which TOML files often have, mean the same.
            for name, each in value.items():
                entries[f"{key}.{name.replace('_', '-')}"] = Entry(each, _line_in(key, name, text))
        else:
            entries[key] = Entry(value, _line_of(key, text))
    return entries


def _line_in(table: str, name: str, text: str) -> int:
    """Return the line of a key in a table, written below the table's heading or with its name and a dot."""
    heading = re.search(rf"^\s*\[\s*{table}\s*\]", text, re.MULTILINE)
    skipped = text.count("\n", 0, heading.start()) if heading else 0
    below = "\n".join(text.splitlines()[skipped:])
    dotted = re.search(rf"^\s*{table}\s*\.\s*{re.escape(name)}\s*=", text, re.MULTILINE)
    return text.count("\n", 0, dotted.start()) + 1 if dotted else skipped + _line_of(name, below)


def _toml_problem(message: str, text: str) -> str:
    """Return the line and the problem of a TOMLDecodeError, whose message ends with its position."""
    lines = text.splitlines()
    position = re.search(r"\(at line (\d+), ", message)
    line = int(position[1]) if position else text.count("\n") + 1
    reason = re.sub(r" \(at .*\)$", "", message)
    key = re.match(r"""\s*["']?([\w-]+)["']?\s*=""", lines[line - 1] if line <= len(lines) else "")
    if reason == "Cannot overwrite a value" and key:
        reason = f"{key[1]} is set twice"
    return f"line {line}: {reason}"


def _line_of(key: str, text: str) -> int:
    lines = text.splitlines()
    begins = re.compile(rf"""\s*\[?\s*["']?{re.escape(key)}["']?\s*[\].=]""")
    return next((number for number, line in enumerate(lines, start=1) if begins.match(line)), 1)
