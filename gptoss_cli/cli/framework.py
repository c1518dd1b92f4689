"""The program as Typer knows it. A command's module is imported when that command is needed, not to list them all."""

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from gptoss_cli.cli.definition import OptionalValueCommand, command
from gptoss_cli.errors import ExitStatus, UsageError
from gptoss_cli.terminal.console import Console

_PREFERENCES = (
    "Most options with a value can also be set in the environment (GPTOSS_MODEL, GPTOSS_EFFORT and so on) or for good"
    " in a file: gptoss config"
)
_LOOKS: dict[str, Any] = {
    "add_completion": False,  # the scripts in completions/ are written by hand and start no Python
    "rich_markup_mode": None,  # plain help imports nothing heavy
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a command is (`module:function` of this package) and the words for it in the list of all."""

    function: str
    summary: str
    epilog: str | None = None
    kind: type[OptionalValueCommand] | None = None

    def load(self, name: str) -> Any:
        module, function = self.function.split(":")
        alone = typer.Typer(**_LOOKS)
        alone.command(name, epilog=self.epilog, cls=self.kind)(
            getattr(import_module(f"gptoss_cli.cli.{module}"), function)
        )
        return typer.main.get_command(alone)


_COMMANDS = {
    "chat": _Place("chat:chat", "Talk with a model.", _PREFERENCES),
    "ask": _Place("ask:ask", "Ask one thing; the answer goes to stdout.", _PREFERENCES, OptionalValueCommand),
    "download": _Place("download:download", "Fetch a model and prove what came."),
    "list": _Place("models:list_models", "List the models, known and installed."),
    "verify": _Place("verify:verify", "Prove an installed model, without the network."),
    "remove": _Place("models:remove", "Delete an installed model."),
    "plan": _Place("plan:plan", "Tell how a model would run, here or elsewhere.", _PREFERENCES),
    "doctor": _Place("doctor:doctor", "Say what this machine lacks, and what to do.", _PREFERENCES),
    "bench": _Place("bench:bench", "Measure how fast a model is here.", _PREFERENCES),
    "config": _Place("config:config", "Show the standing preferences, or edit them.", _PREFERENCES),
    "completions": _Place("completions:completions", "Print a shell's completion script.", _PREFERENCES),
}


class _Commands(MutableMapping[str, Any]):
    """Name -> command, made when it is first looked up."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _COMMANDS[name].load(name)
        return self._made[name]

    def __setitem__(self, name: str, made: Any) -> None:
        self._made[name] = made

    def __delitem__(self, name: str) -> None:
        del self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


class _Program(TyperGroup):
    """`gptoss` itself."""

    def __init__(self, **details: Any) -> None:
        super().__init__(**details)
        self.commands = _Commands()

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.summary) for name, place in _COMMANDS.items()])


_app = typer.Typer(cls=_Program, **_LOOKS)


@_app.callback(invoke_without_command=True)
@command
def gptoss(*, invocation: typer.Context, console: Console) -> None:
    """Chat with OpenAI's open-weight gpt-oss models on this machine."""
    if invocation.invoked_subcommand is None:
        typer.echo(invocation.get_help())


def program() -> Any:
    """The command `gptoss` with all of its own in `commands`."""
    return typer.main.get_command(_app)


def invoke(argv: Sequence[str], console: Console) -> int:
    """Run one command line; returns the exit status. Raises what the command raises, and UsageError."""
    from gptoss_cli.cli.config import ConfigFile

    gptoss = program()
    try:
        # Not `gptoss.main`: it has statuses of its own for Ctrl-C and for a broken pipe.
        defaults = ConfigFile(gptoss, console).of_commands()
        with gptoss.make_context("gptoss", list(argv), obj=console, default_map=defaults) as context:
            gptoss.invoke(context)
        return ExitStatus.DONE
    except typer.Exit as exc:
        return exc.exit_code
    except typer.TyperException as exc:
        context = getattr(exc, "ctx", None)
        path = context.command_path if context else "gptoss"
        message = exc.format_message()
        raise UsageError(f"{message}{'' if message.endswith(('.', '?')) else '.'} Try: {path} --help") from exc
