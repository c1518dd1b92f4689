"""config.toml as defaults of the commands. A flag beats an environment variable, which beats the file."""

import datetime
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
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
from gptoss_cli.files import read_regular, replace_file
from gptoss_cli.terminal.console import Console

_LARGEST_FILE_BYTES = 1 << 20
# Commands that must work while config.toml is being repaired.
_WITHOUT_CONFIG = {"config", "completions"}
Value = str | bool | int | float
# Settings that stand in a table of config.toml: their variables begin with its name.
_TABLES = ("history", "server")


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

    def set(self, key: str, text: str) -> str:
        """Check `text` as a value of the setting `key`, write it into the file, and return it as TOML.

        Mistakes elsewhere in the file do not matter, so this can repair one. Raises UsageError.
        """
        known = all_settings(self._program)
        if key not in known:
            close = get_close_matches(key.replace("_", "-"), known, n=1)
            advice = f"Did you mean {close[0]}?" if close else "To see the settings: gptoss config"
            raise UsageError(f"There is no setting {key!r}. {advice}")
        value = _parsed(key, text, known[key])
        set_value(settings.config_file(), key, value)
        return as_toml(value)

    def of_commands(self) -> dict[str, Any]:
        """Return command name -> its defaults, as Typer's `default_map`."""
        commands = self._program.commands
        defaults: dict[str, Any] = {name: _Defaults(self, commands, name) for name in commands.keys() - _WITHOUT_CONFIG}
        return defaults | {name: _GroupDefaults(self, load) for name, load in commands.groups.items()}


class _GroupDefaults:
    """The settings of a command with commands of its own, whose definitions are imported only for one of these."""

    def __init__(self, file: ConfigFile, load: Callable[[], tuple[object, Mapping[str, Any]]]) -> None:
        self._file = file
        self._load = load

    def get(self, name: str, default: object = None) -> object:
        """Return the defaults of an inner command; the group itself has no settings."""
        _, commands = self._load()
        return _Defaults(self._file, commands, name) if name in commands else default


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


def as_toml(value: Value) -> str:
    """Return a value as TOML, where a JSON string is a string, but for the one character that must be escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _parsed(key: str, text: str, option: Any) -> Value:
    """Return typed text as the value that config.toml should have. Raises UsageError."""
    try:
        value = converted(option, text)
    except typer.BadParameter as exc:
        exc.param = option
        raise UsageError(refusal(exc, key, verb="is")) from exc
    # A size is kept as it was typed: 8GiB.
    is_number = option.type_descriptor.annotation in (bool, int, float) and isinstance(value, bool | int | float)
    return value if is_number and not takes_text(option) else text  # type: ignore[return-value]


def takes_text(option: Any) -> bool:
    """Return True if an option turns the text that the user wrote, such as 8GiB, into its value."""
    return option.type_descriptor.parameter_info.parser is not None


def set_value(path: Path, key: str, value: Value) -> None:
    """Set one key of config.toml, and keep everything else: comments, order, line ends.

    `value` must be one that the setting takes. The file is replaced whole, or not at all; it is made if it is missing.
    A key in a table is written with a dot, such as history.save. Raises UsageError.
    """
    text = _read_text(path)
    encoding = "utf-8-sig" if text.startswith("\ufeff") else "utf-8"
    try:
        data = _with_value(path, text.removeprefix("\ufeff"), key, value).encode(encoding)
    except UnicodeEncodeError as exc:
        raise UsageError(f"{key} has characters that UTF-8 does not have") from exc
    target = path.resolve()  # a link to a file that lies elsewhere stays one
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(target, data, mode=target.stat().st_mode & 0o777 if target.exists() else 0o600, sync=True)
    except OSError as exc:
        raise UsageError(f"{path} cannot be written: {exc.strerror or exc}") from exc


def _with_value(path: Path, text: str, key: str, value: Value) -> str:
    """Return the text of a TOML file with one more or another value.

    Whatever the syntax around the key is: the first change after which exactly this value differs is the right one.
    """
    wanted = _parse(path, text, str)
    table, _, name = key.rpartition(".")
    keys = wanted.setdefault(table, {}) if table else wanted
    if not isinstance(keys, dict):
        raise UsageError(f"{path}, line {_line_of(table, text)}: {table} should be a table", Hint.EDIT_SETTINGS)
    keys[name] = _loads(f"x = {as_toml(value)}")["x"]
    for changed in _changes(text, table, name, as_toml(value)):
        with suppress(tomllib.TOMLDecodeError):
            if _loads(changed) == wanted:
                return changed
    raise UsageError(f"{path}: {key} cannot be set without rewriting the file", Hint.EDIT_SETTINGS)


def _changes(text: str, table: str, name: str, value: str) -> Iterator[str]:
    """Yield texts in which `name` may have been set to `value`, the likeliest first."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    dotted = f"{table}.{name}" if table else name
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += end
    places = [len(lines)]
    for i, line in enumerate(lines):
        for own in (name, dotted):
            if match := re.match(rf"""(\s*{_spelled(own)}\s*=\s*)\S""", line):
                for j in range(i, len(lines)):  # the old value may have several lines
                    if (rest := _after_value(match[1], "".join(lines[i : j + 1]))) is not None:
                        yield "".join((*lines[:i], f"{match[1]}{value}{rest}", *lines[j + 1 :]))
                        break
            if re.match(rf"\s*#\s*{_spelled(own)}\s*=", line):
                places.insert(0, i + 1)  # below the line that shows how to set it
        if re.match(r"\s*\[", line):
            above = i
            while above > 0 and lines[above - 1].lstrip().startswith("#"):
                above -= 1
            places += [above, i + 1]
    for place in places:
        for own in (dotted, name):
            yield "".join((*lines[:place], f"{own} = {value}{end}", *lines[place:]))


def _spelled(key: str) -> str:
    """Return a pattern for a key as TOML allows it: each part in quotes or not, with blanks around dots."""
    return r"\s*\.\s*".join(rf"""["']?{re.escape(part)}["']?""" for part in key.split("."))


def _after_value(begin: str, assignment: str) -> str | None:
    """Return the blanks, the comment and the line end after the value of an assignment; None if it is incomplete."""
    with suppress(tomllib.TOMLDecodeError):
        whole = _loads(assignment)
        for i in range(len(begin), len(assignment)):
            with suppress(tomllib.TOMLDecodeError):
                if assignment[i] in "#\r\n" and _loads(assignment[:i]) == whole:
                    kept = assignment[:i].rstrip()
                    return assignment[len(kept) :]
    return None


def _loads(text: str) -> dict[str, Any]:
    # Numbers as they are written: they can be compared, even nan.
    return tomllib.loads(text, parse_float=str)


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
    text = _read_text(file).removeprefix("\ufeff")
    values = _parse(file, text)
    entries: dict[str, Entry] = {}
    for key, value in values.items():
        if key in _TABLES and isinstance(value, dict):
            # The keys of a table have hyphens, like options; underscores, which TOML files often have, mean the same.
            for name, each in value.items():
                entries[f"{key}.{name.replace('_', '-')}"] = Entry(each, _line_in(key, name, text))
        else:
            # A date in TOML needs no quotes.
            plain = value.isoformat() if isinstance(value, datetime.date) else value
            entries[key] = Entry(plain, _line_of(key, text))
    return entries


def _read_text(file: Path) -> str:
    """Return the text of config.toml with its byte order mark, empty if there is no such file. Raises UsageError."""
    try:
        data = read_regular(file, _LARGEST_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as exc:
        # An editor could not read it either.
        raise UsageError(f"{file} cannot be read: {exc.strerror or exc}") from exc
    if len(data) > _LARGEST_FILE_BYTES:
        raise UsageError(f"{file} is over 1 MiB, too long for settings. Shorten it")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise UsageError(f"{file}, line {line}: not UTF-8", Hint.EDIT_SETTINGS) from exc


def _parse(file: Path, text: str, parse_float: Callable[[str], object] = float) -> dict[str, Any]:
    try:
        return tomllib.loads(text, parse_float=parse_float)
    except RecursionError as exc:
        raise UsageError(f"{file} is nested too deeply", Hint.EDIT_SETTINGS) from exc
    except tomllib.TOMLDecodeError as exc:
        raise UsageError(f"{file}, {_toml_problem(str(exc), text)}", Hint.EDIT_SETTINGS) from exc


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
    elif reason == "Invalid value" and key:
        reason = f"{key[1]} has no valid value. Text needs quotes"
    elif reason.startswith("Cannot declare "):
        name = ".".join(re.findall(r"'([^']*)'", reason))
        reason = f"[{name}] stands in the file twice"
    return f"line {line}: {reason}"


def _line_of(key: str, text: str) -> int:
    lines = text.splitlines()
    begins = re.compile(rf"""\s*\[?\s*["']?{re.escape(key)}["']?\s*[\].=]""")
    return next((number for number, line in enumerate(lines, start=1) if begins.match(line)), 1)
