"""The options of the commands, each declared once. A command receives them as one value."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from gptoss_cli import __version__
from gptoss_cli.settings import ColorChoice, Dtype, ReasoningDisplay, ReasoningEffort
from gptoss_cli.terminal.console import Console

LONGEST_CONTEXT_TOKENS = 131_072
_LARGEST_SEED = 2**32 - 1

_Group = TypeVar("_Group")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gptoss {__version__}")
        raise typer.Exit


def _refuse_zero(value: float) -> float:
    if value == 0:
        raise typer.BadParameter("It should be above 0. For the likeliest token always: --temperature 0")
    return value


def _preference(variable: str, *flags: str, **details: Any) -> Any:
    """An option that a standing preference in the environment can set."""
    return typer.Option(*flags, envvar=variable, show_envvar=False, **details)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions:
    """What every command takes, before its name or after it."""

    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what the program does.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notices and no progress.")] = False
    color: Annotated[
        ColorChoice | None, _preference("GPTOSS_COLOR", help="Colour on stderr; auto asks the terminal.")
    ] = None
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the program an error arose.")] = False
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnOptions:
    """What `ask` and `chat` share: the model, and how it answers."""

    model: Annotated[
        str | None,
        _preference("GPTOSS_MODEL", "--model", "-m", metavar="20b|120b|demo|PATH", help="Which model answers."),
    ] = None
    effort: Annotated[
        ReasoningEffort, _preference("GPTOSS_EFFORT", "--effort", "-e", help="How long it reasons; none is untrained.")
    ] = ReasoningEffort.MEDIUM
    instructions: Annotated[
        str | None,
        _preference(
            "GPTOSS_INSTRUCTIONS", "--instructions", "-s", metavar="TEXT|@FILE", help="What it is told to heed."
        ),
    ] = None
    temperature: Annotated[
        float, _preference("GPTOSS_TEMPERATURE", "--temperature", "-t", metavar="X", min=0, max=10, help="0 is greedy.")
    ] = 1.0
    top_p: Annotated[
        float,
        _preference(
            "GPTOSS_TOP_P",
            metavar="X",
            min=0,
            max=1,
            callback=_refuse_zero,
            help="Draw from the likeliest tokens of this weight.",
        ),
    ] = 1.0
    top_k: Annotated[
        int | None,
        _preference("GPTOSS_TOP_K", metavar="N", min=1, help="Draw from this many of the likeliest tokens."),
    ] = None
    seed: Annotated[
        int | None, _preference("GPTOSS_SEED", metavar="N", min=0, max=_LARGEST_SEED, help="The same draws every time.")
    ] = None
    max_tokens: Annotated[
        int | None,
        _preference("GPTOSS_MAX_TOKENS", metavar="N", min=1, help="Cut a turn short after N, reasoning included."),
    ] = None
    think_budget: Annotated[
        int | None,
        _preference("GPTOSS_THINK_BUDGET", metavar="N", min=0, help="Answer after N tokens of reasoning."),
    ] = None
    free_headers: Annotated[
        bool, typer.Option("--free-headers", help="Let the model write its headers as it likes.")
    ] = False
    context: Annotated[
        int | None,
        _preference(
            "GPTOSS_CONTEXT", metavar="N", min=2, max=LONGEST_CONTEXT_TOKENS, help="Most tokens of a conversation."
        ),
    ] = None
    dtype: Annotated[Dtype, _preference("GPTOSS_DTYPE", help="The arithmetic it runs in.")] = Dtype.BFLOAT16
    reasoning: Annotated[
        ReasoningDisplay | None, _preference("GPTOSS_REASONING", help="Whether its reasoning is shown.")
    ] = None


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make `function` a command that Typer can read.

    Its parameter `console` gets the Console with CommonOptions applied, `options` (if it has one) a TurnOptions, and
    `invocation` (if it has one) Typer's context; the others are its own arguments.
    """
    parameters = inspect.signature(function, eval_str=True).parameters
    takes_options, takes_invocation = "options" in parameters, "invocation" in parameters
    groups: list[type[Any]] = [TurnOptions, CommonOptions] if takes_options else [CommonOptions]

    def invoke(invocation: typer.Context, **values: Any) -> None:
        _apply(_collect(CommonOptions, values), invocation)
        if takes_options:
            values["options"] = _collect(TurnOptions, values)
        if takes_invocation:
            values["invocation"] = invocation
        function(console=invocation.obj, **values)

    own = [p for name, p in parameters.items() if name not in ("console", "options", "invocation")]
    first = inspect.Parameter("invocation", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    everything = [first, *own, *(parameter for group in groups for parameter in _parameters(group))]
    invoke.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined]
    invoke.__annotations__ = {parameter.name: parameter.annotation for parameter in everything}
    invoke.__name__, invoke.__doc__ = function.__name__, function.__doc__
    return invoke


def _parameters(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(f.name, keyword, default=f.default, annotation=hints[f.name]) for f in fields(group)]


def _collect(group: type[_Group], values: dict[str, Any]) -> _Group:
    return group(**{field.name: values.pop(field.name) for field in fields(group)})  # type: ignore[arg-type]


def _apply(common: CommonOptions, invocation: typer.Context) -> None:
    console: Console = invocation.obj
    console.quiet |= common.quiet
    console.debug |= common.debug
    source = invocation.get_parameter_source("color")
    # The variable is read for `gptoss` and again for its command: there it must not undo a flag given before.
    if console.color is None or (source is not None and source.name == "COMMANDLINE"):
        console.color = common.color
    if common.verbose or common.debug:
        import logging

        level = logging.DEBUG if common.debug else logging.INFO
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("gptoss_cli").setLevel(level)
