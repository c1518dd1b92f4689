"""The parts that make Typer read definition.py: commands that are built when needed, and groups of options as values.

Typer takes tens of milliseconds to build all commands, so each is built when it is first looked up. A command function
gets every group of options (a dataclass of options.py) as one value, and the Environment as `environment`.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Collection, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import islice
from typing import Any, TypeAlias, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from gptoss_cli.cli.coercion import lighten, lightened
from gptoss_cli.cli.config_file import ConfigFile
from gptoss_cli.cli.environment import Environment
from gptoss_cli.cli.options import CommonOptions
from gptoss_cli.cli.refusals import option_name, refusal
from gptoss_cli.errors import ExitStatus, UsageError

_EXTRACT = ("-x", "--extract")
_RESUME = "--resume"
_PARAM = "--param"
_APPEARANCE: dict[str, Any] = {
    "add_completion": False,  # the scripts in completions/ are written by hand and start no Python
    "rich_markup_mode": None,  # plain help imports nothing heavy
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}

# Commands of similar programs (ollama, llm, git), and what does the same here.
_ADVICE = {
    "run": "To chat: gptoss chat -m 20b. To ask one question: gptoss ask -m 20b PROMPT",
    "pull": "To download a model: gptoss download 20b",
    "rm": "To delete a model: gptoss remove 20b",
    "ls": "To see the models: gptoss list",
    "models": "To see the models: gptoss list",
    "show": "To look into a model: gptoss inspect 20b",
    "ps": "No model runs in the background. To see the models: gptoss list",
    "stop": "No model runs in the background: a command ends with its answer, a chat with Ctrl-D",
    "login": "Public models need no token. For others set HF_TOKEN",
    "prompt": "To ask one question: gptoss ask PROMPT",
    "logs": "To see the conversations: gptoss conversations list",
    "history": "To see the conversations: gptoss conversations list",
    "settings": "To see the settings: gptoss config",
    "set": "To set one: gptoss config set KEY VALUE",
    "version": "To see it: gptoss --version",
    "conversations ls": "To see them: gptoss conversations list",
    "conversations remove": "To remove one: gptoss conversations rm ID",
    "conversations delete": "To remove one: gptoss conversations rm ID",
}

_Function = TypeVar("_Function", bound=Callable[..., None])
_Group = TypeVar("_Group")
LoadGroup: TypeAlias = "Callable[[], tuple[Callable[..., None], Commands]]"


class PlainCommand(TyperCommand):
    """A command whose help says "at least 1" where Typer's says "x>=1", and does not name types of Python."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the options."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                title = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections[title].append(_plain_record(*record))
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option --help."""
        return _with_console(super().get_help_option(ctx))


class OptionalValueCommand(PlainCommand):
    """A command with options that may stand without a value, which Typer has not.

    The value of `-x` and `--extract` stands in the same word (`-xpython`), that of `--resume` may be the next one.
    `--param` takes two words.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse `args`; a bare `-x` gets an empty value, and so does `--resume` before an option or at the end."""
        takes_value = {flag for p in self.params if not getattr(p, "is_flag", True) for flag in p.opts}
        args = _join_parameters(args, takes_value)
        given: list[str] = []
        before = ""
        for i, (word, after) in enumerate(zip(args, [*args[1:], "-"], strict=False)):
            if word == "--":
                given += args[i:]
                break
            is_option = before not in takes_value and word in takes_value
            if is_option and word in _EXTRACT:
                word = "--extract="
            elif is_option and word == _RESUME and after.startswith("-"):
                word = "--resume="
            given.append(word)
            before = "" if before in takes_value else word
        return super().parse_args(ctx, given)


def _join_parameters(args: Sequence[str], takes_value: Collection[str]) -> list[str]:
    """Return `args` with NAME and VALUE after `--param` in one word, since Typer has no lists of pairs."""
    joined: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            joined += [word, *words]
        elif word == _PARAM:
            pair = list(islice(words, 1))
            if pair and "=" not in pair[0]:
                pair += islice(words, 1)
            joined.append("=".join([word, *pair]) if pair else word)
        elif word in takes_value and word not in (*_EXTRACT, _RESUME):
            joined += [word, *islice(words, 1)]
        else:
            joined.append(word)
    return joined


@dataclass(frozen=True, slots=True)
class _Definition:
    """A command before Typer has built it."""

    function: Callable[..., None]
    epilog: str | None
    kind: type[TyperCommand]

    @property
    def summary(self) -> str:
        return (self.function.__doc__ or "").partition("\n")[0]

    def build(self, name: str) -> Any:
        alone = typer.Typer(**_APPEARANCE)
        alone.command(name, epilog=self.epilog, cls=self.kind)(_with_groups(self.function))
        return lightened(typer.main.get_command(alone))


@dataclass(frozen=True, slots=True)
class _CommandGroup:
    """A command with commands of its own, before their definitions are imported."""

    summary: str
    load: LoadGroup

    def build(self, name: str) -> Any:
        program = build_program(*self.load())
        program.name = name
        return program


class Commands(MutableMapping[str, Any]):
    """Command name -> Typer command, built when it is first looked up."""

    def __init__(self) -> None:
        self._definitions: dict[str, _Definition | _CommandGroup] = {}
        self._built: dict[str, Any] = {}

    def command(
        self, name: str, *, epilog: str | None = None, kind: type[TyperCommand] = PlainCommand
    ) -> Callable[[_Function], _Function]:
        """Return a decorator that adds a function as the command `name`."""

        def add(function: _Function) -> _Function:
            self._definitions[name] = _Definition(function, epilog, kind)
            return function

        return add

    def add_group(self, name: str, summary: str, load: LoadGroup) -> None:
        """Add the command `name`, which has commands of its own.

        `load` returns the function that has its help and runs before each of them, and the commands.
        """
        self._definitions[name] = _CommandGroup(summary, load)

    @property
    def groups(self) -> dict[str, LoadGroup]:
        """Group -> the function that loads its commands. Loads none."""
        return {name: each.load for name, each in self._definitions.items() if isinstance(each, _CommandGroup)}

    def summaries(self) -> list[tuple[str, str]]:
        """Return each command's name and the first line of its help. Builds none."""
        return [(name, definition.summary) for name, definition in self._definitions.items()]

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = self._definitions[name].build(name)
        return self._built[name]

    def __setitem__(self, name: str, built: Any) -> None:
        self._built[name] = built

    def __delitem__(self, name: str) -> None:
        del self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._definitions)

    def __len__(self) -> int:
        return len(self._definitions)


class _Program(TyperGroup):
    """`gptoss` itself."""

    commands: Any

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands without building any."""
        with formatter.section("Commands"):
            formatter.write_dl(self.commands.summaries())

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option --help."""
        return _with_console(super().get_help_option(ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command. `help` prints the help of the command that follows it, or of the program."""
        name, *others = args
        if name not in self.commands:
            if name == "help" and not others:
                show_help(ctx)
                raise typer.Exit
            if name == "help":
                args = [*others, "--help"]
            elif advice := _ADVICE.get(f"{ctx.command_path} {name}".removeprefix("gptoss ")):
                raise UsageError(f"There is no command {name}. {advice}")
        return super().resolve_command(ctx, args)


def show_help(context: Any) -> None:
    """Write the help of a command to stdout. Raises what Console.out raises."""
    context.obj.console.out(f"{context.get_help()}\n")


def _with_console(option: Any) -> Any:
    """Return the option --help so that it writes to the console, which reports a stdout that cannot be written."""

    def show(context: Any, parameter: object, wanted: bool) -> None:
        if wanted and not context.resilient_parsing:
            show_help(context)
            raise typer.Exit

    option.callback = show
    lighten(option)
    return option


def _plain_record(name: str, text: str) -> tuple[str, str]:
    """Return one entry of the help, its types and its range in plain words."""
    name = re.sub(r" <(str|path|list\[str\])>$", "", name)
    words, bracket, details = text.rpartition("  [")
    details = re.sub(r"(\S+?)(?:\.0)?<=x<=(\S+?)(?:\.0)?(?=[];])", r"\1 to \2", details)
    details = re.sub(r"\bx>=(\S+)", r"at least \1", details)
    return name, f"{words}{bracket}{details}"


def build_program(function: Callable[..., None], commands: Commands) -> Any:
    """Return the Typer group `gptoss`: `function` has its help and runs before every command."""
    app = typer.Typer(cls=_Program, **_APPEARANCE)
    app.callback(invoke_without_command=True)(_with_groups(function))
    program: Any = lightened(typer.main.get_command(app))
    program.commands = commands
    return program


def invoke(program: Any, argv: Sequence[str], environment: Environment) -> int:
    """Run one command line; return the exit status. Raises what the command raises, and UsageError."""
    try:
        # Not `program.main`: it has exit statuses of its own for Ctrl-C and for a broken pipe.
        defaults = ConfigFile(program, environment.console).of_commands()
        with program.make_context("gptoss", list(argv), obj=environment, default_map=defaults) as context:
            program.invoke(context)
        return ExitStatus.DONE
    except typer.Exit as exc:
        return exc.exit_code
    except typer.TyperException as exc:
        raise _usage_error(exc) from exc


def _usage_error(exc: typer.TyperException) -> UsageError:
    context = getattr(exc, "ctx", None)
    if type(exc) is typer.BadParameter and exc.param is not None:
        return UsageError(refusal(exc, _origin(exc.param, context), verb="is"))
    path = context.command_path if context else "gptoss"
    message = exc.format_message()
    return UsageError(f"{message}{'' if message.endswith(('.', '?')) else '.'} Try: {path} --help")


def _origin(parameter: Any, context: Any) -> str:
    """Return the option, or the environment variable that set it."""
    source = context.get_parameter_source(parameter.name) if context else None
    by_variable = source is not None and source.name == "ENVIRONMENT"
    return str(parameter.envvar) if by_variable else option_name(parameter)


def _with_groups(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function that Typer can read and that calls `function`.

    Its parameter `environment` gets the Environment with CommonOptions applied, a parameter whose type is a group of
    options that group, and `invocation` (if it has one) Typer's context; the others are its own arguments.
    """
    parameters = inspect.signature(function).parameters
    annotations = {name: parameter.annotation for name, parameter in parameters.items() if name != "environment"}
    groups = {name: kind for name, kind in annotations.items() if isinstance(kind, type) and is_dataclass(kind)}
    injected = [name for name in ("environment", "invocation") if name in parameters]

    def invoke_with_groups(invocation: typer.Context, **values: Any) -> None:
        environment: Environment = invocation.obj
        _apply(_collect(CommonOptions, values), invocation, environment)
        # Only now is it known whether --quiet silences the warnings.
        report = getattr(invocation.default_map, "report", None)
        if report is not None:
            report()
        for name, group in groups.items():
            values[name] = _collect(group, values)
        available = {"environment": environment, "invocation": invocation}
        function(**values, **{name: available[name] for name in injected})

    own = [parameter for name, parameter in parameters.items() if name not in (*injected, *groups)]
    first = inspect.Parameter("invocation", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    flags = (parameter for group in (*groups.values(), CommonOptions) for parameter in _parameters(group))
    everything = [first, *own, *flags]
    invoke_with_groups.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined]
    invoke_with_groups.__annotations__ = {parameter.name: parameter.annotation for parameter in everything}
    invoke_with_groups.__name__, invoke_with_groups.__doc__ = function.__name__, function.__doc__
    return invoke_with_groups


def _parameters(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(f.name, keyword, default=f.default, annotation=hints[f.name]) for f in fields(group)]


def _collect(group: type[_Group], values: dict[str, Any]) -> _Group:
    return group(**{field.name: values.pop(field.name) for field in fields(group)})  # type: ignore[arg-type]


def _apply(common: CommonOptions, invocation: typer.Context, environment: Environment) -> None:
    console = environment.console
    console.quiet |= common.quiet
    console.debug |= common.debug
    console.verbose |= common.verbose
    source = invocation.get_parameter_source("color")
    # The variable is read for `gptoss` and again for its command: there it must not undo a flag given before.
    if console.color is None or (source is not None and source.name == "COMMANDLINE"):
        console.color = common.color
    if common.verbose or common.debug:
        level = logging.DEBUG if common.debug else logging.INFO
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("gptoss_cli").setLevel(level)


def given_options(invocation: typer.Context) -> frozenset[str]:
    """Return the names of the parameters that the command line itself sets."""
    sources = {name: invocation.get_parameter_source(name) for name in invocation.params}
    return frozenset(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")
