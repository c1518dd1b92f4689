"""The completion scripts have every command, option and closed value of the program, and no others."""

import re
import shutil
import subprocess
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from gptoss_cli.checkpoint import catalog
from gptoss_cli.cli.completions import SCRIPTS, find_script
from gptoss_cli.cli.config_file import all_settings
from gptoss_cli.cli.definition import PROGRAM
from gptoss_cli.cli.definition_conversations import CONVERSATIONS
from gptoss_cli.cli.model_options import CompareOptions
from gptoss_cli.cli.options import CacheAction, CommonOptions, ConfigAction, Shell, TurnOptions
from gptoss_cli.settings import ExportFormat
from tests.cli.conftest import Run
from tests.cli.terminal_driver import Terminal

_FOLDER = Path(__file__).parents[2] / "completions"
_SCRIPTS = tuple(SCRIPTS.values())


def _options(command: Any) -> set[str]:
    parent = PROGRAM.make_context("gptoss", [], resilient_parsing=True)
    context = command.make_context("command", [], parent=parent, resilient_parsing=True)
    flags = (flag for parameter in command.get_params(context) for flag in parameter.opts + parameter.secondary_opts)
    return {flag for flag in flags if flag.startswith("-")}


def _all_options() -> set[str]:
    inner = (command for load in PROGRAM.commands.groups.values() for command in load()[1].values())
    return _options(PROGRAM).union(*(_options(command) for command in (*PROGRAM.commands.values(), *inner)))


def _closed_values() -> dict[str, list[str]]:
    """Return long option -> its allowed values."""
    values: dict[str, list[str]] = {"--model": [model.short_name for model in catalog.MODELS]}
    for group in (TurnOptions, CommonOptions, CompareOptions):
        for name, hint in get_type_hints(group).items():
            for kind in (hint, *get_args(hint)):
                if isinstance(kind, type) and issubclass(kind, StrEnum):
                    values[f"--{name.replace('_', '-')}"] = [str(value) for value in kind]
    return values


_CLOSED_ARGUMENTS: dict[str, list[str]] = {"cache": [*CacheAction], "config": [*ConfigAction], "completions": [*Shell]}


def _named_options(script: str) -> set[str]:
    """Return every option in a script, by the syntax of its shell; bash itself is run instead."""
    begins = ("complete",) if script == "gptoss.fish" else ("complete", " ")
    text = "\n".join(line for line in (_FOLDER / script).read_text("utf-8").splitlines() if line.startswith(begins))
    if script == "gptoss.fish":
        found = {f"--{name}" for name in re.findall(r" -l ([\w-]+)", text)}
        return found | {f"-{name}" for name in re.findall(r" -s (\w)\b", text)}
    if script == "_gptoss":
        text = "\n".join(line for line in text.splitlines() if re.search(r"\[.+\]", line))
    return set(re.findall(r"(?<![\w-])(--[a-z][a-z-]*|-[A-Za-z])(?![\w-])", text))


@pytest.mark.parametrize("script", _SCRIPTS[1:])
def test_every_option_is_there_and_no_other(script: str) -> None:
    assert _named_options(script) == _all_options()


@pytest.mark.parametrize("script", _SCRIPTS)
def test_every_command_is_there(script: str) -> None:
    text = (_FOLDER / script).read_text("utf-8")
    assert [name for name in PROGRAM.commands if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("script", _SCRIPTS)
def test_every_setting_is_there(script: str) -> None:
    words = set(re.findall(r"[a-z.-]+", (_FOLDER / script).read_text("utf-8")))
    assert set(all_settings(PROGRAM)) - words == set()


@pytest.mark.parametrize("script", _SCRIPTS)
def test_every_closed_value_is_there(script: str) -> None:
    text = (_FOLDER / script).read_text("utf-8")
    lines = [re.sub("[',]", "", line) for line in text.splitlines()]
    for taker, values in (_closed_values() | _CLOSED_ARGUMENTS).items():
        assert any(" ".join(values) in line for line in lines), f"{script} lacks the values of {taker}"


def _complete(*words: str, cwd: Path | None = None) -> set[str]:
    """Return the candidates of bash for the last word, or for its end after a = or a : or from an @ on."""
    program = (
        'source "$1"; COMP_LINE=$2; COMP_POINT=${#2}; shift 2; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        'COMP_WORDBREAKS=$\' \\t\\n"><=;|&(@:\'; _gptoss; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    split = [part for word in ("gptoss", *words) for part in re.findall(r"[=@:]+|[^=@:]+", word) or [""]]
    command = ["bash", "-c", program, "bash", str(_FOLDER / "gptoss.bash"), " ".join(("gptoss", *words)), *split]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd).stdout.split())


def test_bash_offers_the_commands_and_the_common_options() -> None:
    assert _complete("") == set(PROGRAM.commands) | _options(PROGRAM)


@pytest.mark.parametrize("command", list(PROGRAM.commands))
def test_bash_offers_each_commands_own_options(command: str) -> None:
    assert _complete("-q", command, "-") == _options(PROGRAM.commands[command])


@pytest.mark.parametrize("command", list(CONVERSATIONS))
def test_bash_offers_the_options_of_each_command_of_conversations(command: str) -> None:
    assert _complete("conversations", command, "-") == _options(CONVERSATIONS[command])


def test_bash_offers_the_commands_of_conversations_and_the_formats_of_an_export() -> None:
    assert _complete("conversations", "") == set(CONVERSATIONS)
    assert _complete("conversations", "export", "--format", "") == set(ExportFormat)


@pytest.mark.parametrize("script", _SCRIPTS)
def test_every_command_of_conversations_is_there(script: str) -> None:
    text = (_FOLDER / script).read_text("utf-8")
    assert [name for name in CONVERSATIONS if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("option", list(_closed_values()))
def test_bash_offers_the_values_of_an_option(option: str, tmp_path: Path) -> None:
    values = set(_closed_values()[option])
    assert _complete("ask", option, "", cwd=tmp_path) == values
    assert _complete("ask", f"{option}=", cwd=tmp_path) == values
    first = sorted(values)[0]
    assert _complete("ask", f"{option}={first}", cwd=tmp_path) == {first}


def test_bash_offers_folders_for_a_model_and_files_for_instructions(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "words.txt").touch()
    assert _complete("ask", "-m", "we", cwd=tmp_path) == {"weights"}
    assert _complete("chat", "-s", "@wo", cwd=tmp_path) == {"@words.txt"}
    assert _complete("chat", "-s", "@", cwd=tmp_path) == {"@words.txt", "@weights/"}


def test_bash_completes_what_follows_a_character_that_splits_words(tmp_path: Path) -> None:
    for name in ("a:b.txt", "a@c.txt", "a=d.txt"):
        (tmp_path / name).touch()
    assert _complete("ask", "-f", "a:", cwd=tmp_path) == {"b.txt"}
    assert _complete("ask", "-f", "a@c", cwd=tmp_path) == {"@c.txt"}
    assert _complete("ask", "--file=a=", cwd=tmp_path) == {"d.txt"}
    assert _complete("ask", "--instructions=@a:", cwd=tmp_path) == {"b.txt"}
    assert _complete("ask", "-f", "a", cwd=tmp_path) == {"a:b.txt", "a@c.txt", "a=d.txt"}


def test_bash_completes_a_setting_and_its_value(tmp_path: Path) -> None:
    assert _complete("config", "set", "") == set(all_settings(PROGRAM))
    assert _complete("config", "set", "effort", "h") == {"high"}
    assert _complete("config", "set", "history.save", "") == {"true", "false"}
    (tmp_path / "words.txt").touch()
    assert _complete("config", "set", "instructions", "@w", cwd=tmp_path) == {"@words.txt"}


@pytest.mark.parametrize("command", list(_CLOSED_ARGUMENTS))
def test_bash_offers_the_values_of_an_argument(command: str) -> None:
    assert _complete(command, "") == set(_CLOSED_ARGUMENTS[command])


def test_bash_offers_installed_checkpoints_and_whole_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    (tmp_path / "data" / "checkpoints" / "tuned").mkdir(parents=True)
    (tmp_path / "a file.txt").touch()
    assert _complete("ask", "-m", "tu", cwd=tmp_path) == {"tuned"}
    assert _complete("ask", "-f", "a", cwd=tmp_path) == {"a", "file.txt"}


def test_bash_completion_starts_no_program(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    words = 'COMP_WORDS=(gptoss ask -m ""); COMP_CWORD=3; COMP_LINE="gptoss ask -m "; COMP_POINT=14'
    script = f'source "{_FOLDER / "gptoss.bash"}"; {words}; _gptoss; echo "${{COMPREPLY[@]}}"'
    empty_path = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [bash, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path, env=empty_path
    )
    assert (done.stdout, done.stderr) == ("20b 120b safeguard safeguard-120b demo\n", "")


def test_bash_completes_what_is_typed(tmp_path: Path) -> None:
    for name in ("a file.txt", "notes.txt", "b:c.txt", "d@e.txt"):
        (tmp_path / name).touch()
    with _shell("bash", "--norc", "-i", cwd=tmp_path) as terminal:
        terminal.type(f"PS1='$ '; source {_FOLDER / 'gptoss.bash'}; gptoss() {{ echo \"<$2>\"; }}; clear\r")
        terminal.wait_for("$")
        terminal.type("gptoss ask --reasoning sh\t")
        terminal.wait_for("--reasoning show")
        terminal.type("-f a\t\r")
        terminal.wait_for("<--reasoning>")
        assert "-f a\\ file.txt" in terminal.text
        for typed, completed in (
            ("gptoss ask -s @no\t", "-s @notes.txt"),
            ("\x15gptoss ask --instructions=@no\t", "--instructions=@notes.txt"),
            ("\x15gptoss ask --effort=hi\t", "--effort=high"),
            ("\x15gptoss ask --file=no\t", "--file=notes.txt"),
            ("\x15gptoss ask -f b:\t", "-f b:c.txt"),
            ("\x15gptoss ask -f d@\t", "-f d\\@e.txt"),
        ):
            terminal.type(typed)
            terminal.wait_for(completed)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes_what_is_typed(tmp_path: Path) -> None:
    for name in ("notes.txt", "b:c.txt"):
        (tmp_path / name).touch()
    with _shell("zsh", "-f", "-i", cwd=tmp_path) as terminal:
        terminal.type(f"PS1='$ '; fpath=({_FOLDER} $fpath); autoload -U compinit; compinit -D; clear\r")
        terminal.wait_for("$")
        for typed, completed in (
            ("gptoss compl\t", "gptoss completions"),
            ("\x15gptoss ask --reasoning sh\t", "--reasoning show"),
            ("\x15gptoss ask -f no\t", "-f notes.txt"),
            ("\x15gptoss ask -m de\t", "-m demo"),
            ("\x15gptoss config pa\t", "config path"),
            ("\x15gptoss config set max\t", "config set max-tokens"),
            ("\x15gptoss ask -s @no\t", "-s @notes.txt"),
            ("\x15gptoss ask --instructions=@no\t", "--instructions=@notes.txt"),
            ("\x15gptoss ask --effort=hi\t", "--effort=high"),
            ("\x15gptoss ask --file=no\t", "--file=notes.txt"),
            ("\x15gptoss ask -f b:\t", "-f b:c.txt"),
        ):
            terminal.type(typed)
            terminal.wait_for(completed)


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("gptoss ", set(PROGRAM.commands)),
        ("gptoss ask --reasoning ", {"show", "collapse", "hide"}),
        ("gptoss bench --dense ", {"bf16", "int8"}),
        ("gptoss config ", set(ConfigAction)),
        ("gptoss config set ", set(all_settings(PROGRAM))),
        ("gptoss ask -s @no", {"@notes.txt"}),
        ("gptoss ask --instructions=@no", {"--instructions=@notes.txt"}),
        ("gptoss ask --effort=hi", {"--effort=high"}),
        ("gptoss completions ", set(Shell)),
        ("gptoss ask -m tu", {"tuned"}),
        ("gptoss ask -f no", {"notes.txt"}),
        ("gptoss ask --stream-", {"--stream-json"}),
    ],
)
def test_fish_offers(typed: str, offered: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    (tmp_path / "data" / "checkpoints" / "tuned").mkdir(parents=True)
    for name in ("notes.txt", "b:c.txt"):
        (tmp_path / name).touch()
    program = f"source {_FOLDER / 'gptoss.fish'}; complete -C '{typed}'"
    done = subprocess.run(["fish", "-N", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert {line.split("\t")[0] for line in done.stdout.splitlines()} == offered


def _shell(*command: str, cwd: Path) -> Terminal:
    """A shell on a terminal."""
    program = f"import os; os.execvp({command[0]!r}, {list(command)!r})"
    return Terminal(["-c", program], cwd=cwd)


@pytest.mark.parametrize("shell", list(Shell))
def test_each_script_is_printed(shell: Shell, run: Run) -> None:
    assert run("completions", shell) == (0, (_FOLDER / SCRIPTS[shell]).read_text("utf-8"), "")


def test_the_scripts_of_this_copy_are_found() -> None:
    assert [find_script(name) for name in _SCRIPTS] == [_FOLDER / name for name in _SCRIPTS]


@pytest.mark.parametrize(("shell", "script"), [("bash", "gptoss.bash"), ("zsh", "_gptoss"), ("fish", "gptoss.fish")])
def test_the_shell_can_read_its_script(shell: str, script: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", str(_FOLDER / script)], check=True)


def test_zsh_finds_the_script_by_its_first_line() -> None:
    assert (_FOLDER / "_gptoss").read_text("utf-8").startswith("#compdef gptoss\n")
