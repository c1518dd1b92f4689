"""`gptoss config`: show the settings and where each comes from, print the path of config.toml, edit it, or set one."""

import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from gptoss_cli import settings
from gptoss_cli.cli.config_file import ConfigFile, all_settings, as_toml, as_typed, converted, takes_text
from gptoss_cli.cli.json_output import write_json
from gptoss_cli.cli.options import ConfigAction
from gptoss_cli.errors import GptossError, UsageError
from gptoss_cli.files import replace_file
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


def run_config(
    action: ConfigAction, words: Sequence[str], program: Any, console: Console, *, as_json: bool = False
) -> None:
    """Run `gptoss config`. `words` follow the action; `program` is the Typer group with all commands."""
    if action is ConfigAction.SET:
        _set(words, program, console)
    elif words:
        raise UsageError(f"gptoss config {action} takes nothing more. To set one: gptoss config set KEY VALUE")
    elif action is ConfigAction.PATH:
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


def _set(words: Sequence[str], program: Any, console: Console) -> None:
    if len(words) == 1 and "=" in words[0]:
        words = [part.strip() for part in words[0].split("=", 1)]
    if len(words) != 2:
        raise UsageError("gptoss config set takes a KEY and a VALUE, such as: gptoss config set effort high")
    key, text = words
    written = ConfigFile(program, console).set(key, text)
    console.notice(f"{key} = {written} in {settings.config_file()}")
    variable = all_settings(program)[key].envvar
    if os.environ.get(variable):
        console.notice(f"The environment variable {variable} overrides it.")


def _settings(program: Any, console: Console) -> Iterator[_Setting]:
    file = settings.config_file()
    config_toml = ConfigFile(program, console)
    config_toml.report()
    entries = config_toml.load()
    for key, option in all_settings(program).items():
        variable = os.environ.get(option.envvar)
        entry = entries.get(key)
        if variable:
            yield _Setting(key, _plain(option, variable), option.envvar)
        elif entry is not None:
            yield _Setting(key, _plain(option, as_typed(entry.value)), f"{file}, line {entry.line}")
        else:
            yield _Setting(key, _default(option), "default")


def _plain(option: Any, text: object) -> Any:
    """Return the value that `text` sets, as config.toml may have it. Raises typer.BadParameter."""
    value = converted(option, text)
    return text if takes_text(option) else value.value if isinstance(value, Enum) else value


def _default(option: Any) -> Any:
    return option.default.value if isinstance(option.default, Enum) else option.default


def _table(shown: list[_Setting]) -> str:
    """Return the settings as TOML with their origins as comments; a setting without a value is a comment."""
    assigned = [_assignment(each.key, each.value) for each in shown]
    width = max(map(len, assigned))
    return "".join(f"{text:<{width}}  # {each.origin}\n" for text, each in zip(assigned, shown, strict=True))


def _assignment(key: str, value: Any) -> str:
    return f"# {key} =" if value is None else f"{key} = {as_toml(value)}"


def _edit(program: Any) -> None:
    file = settings.config_file()
    if not file.exists():
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(file, _template(program).encode())
        except OSError as exc:
            raise UsageError(f"{file} cannot be written: {exc.strerror or exc}") from exc
    try:
        editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or _default_editor())
        status = subprocess.run([*editor, os.fspath(file)]).returncode
    except ValueError as exc:
        raise UsageError(f"EDITOR cannot be read as a command: {exc}. Set it to one, such as nano") from exc
    except OSError as exc:
        raise UsageError(f"{exc.filename}: {exc.strerror}. Set EDITOR, or edit {file} yourself") from exc
    if status != 0:
        raise GptossError(f"The editor ended with status {status} and left {file} as it is now")


def _default_editor() -> str:
    return "notepad" if os.name == "nt" else "vi"


def _template(program: Any) -> str:
    parts = [_HEADING]
    for key, option in all_settings(program).items():
        assignment = _assignment(key, _default(option)).removeprefix("# ")
        choices = f" ({option.metavar})" if option.metavar else ""
        parts.append(f"# {option.help}{choices}\n# {assignment}\n")
    return "\n".join(parts)
