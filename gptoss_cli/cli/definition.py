"""The options of the commands, each declared once. A command receives them as one value."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from gptoss_cli import __version__
from gptoss_cli.cli.sizes import parse_size
from gptoss_cli.settings import Activations, ColorChoice, Dense, Dtype, Execution, ReasoningDisplay, ReasoningEffort
from gptoss_cli.terminal.console import Console

LONGEST_CONTEXT_TOKENS = 131_072
_LARGEST_SEED = 2**32 - 1
_EXTRACT = ("-x", "--extract")

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


ContextOption = Annotated[
    int | None,
    _preference(
        "GPTOSS_CONTEXT", metavar="N", min=2, max=LONGEST_CONTEXT_TOKENS, help="Most tokens of a conversation."
    ),
]
ExecutionOption = Annotated[Execution, _preference("GPTOSS_EXECUTION", help="Where the weights lie; auto chooses.")]
DeviceOption = Annotated[
    str, _preference("GPTOSS_DEVICE", metavar="auto|cpu|cuda[:N]|mps", help="What computes; auto chooses.")
]
GpuMemoryOption = Annotated[
    int | None,
    _preference(
        "GPTOSS_GPU_MEMORY", metavar="SIZE", parser=parse_size, help="The most to use of a GPU's memory, like 8GiB."
    ),
]
DenseOption = Annotated[
    Dense, _preference("GPTOSS_DENSE", help="Attention and unembedding as they are, or smaller and faster.")
]
ActivationsOption = Annotated[
    Activations, _preference("GPTOSS_ACTIVATIONS", help="What the CPU multiplies experts by; int8 is faster, coarser.")
]
ThreadsOption = Annotated[
    int | None, _preference("GPTOSS_THREADS", metavar="N", min=1, max=1024, help="Threads; else one for each core.")
]


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
    context: ContextOption = None
    execution: ExecutionOption = Execution.AUTO
    device: DeviceOption = "auto"
    gpu_memory: GpuMemoryOption = None
    dtype: Annotated[Dtype, _preference("GPTOSS_DTYPE", help="The arithmetic it runs in.")] = Dtype.BFLOAT16
    dense: DenseOption = Dense.BF16
    activations: ActivationsOption = Activations.INT16
    threads: ThreadsOption = None
    no_prefix_cache: Annotated[
        bool, typer.Option("--no-prefix-cache", help="Read the first messages anew in every chat.")
    ] = False
    reasoning: Annotated[
        ReasoningDisplay | None, _preference("GPTOSS_REASONING", help="Whether its reasoning is shown.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """What `ask` alone takes: what is asked besides the words, when the answer ends, and where it goes."""

    files: Annotated[
        list[Path] | None, typer.Option("--file", "-f", metavar="PATH", help="A text file to ask about; repeatable.")
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the answer's text.")] = False
    stream_json: Annotated[bool, typer.Option("--stream-json", help="JSON lines, as the answer is made.")] = False
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Print the answer when it is whole.")] = False
    extract: Annotated[
        str | None,
        typer.Option("--extract", "-x", metavar="[=LANG]", help="Only the first code block; -xLANG: of that language."),
    ] = None
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to FILE, all of it or nothing.")
    ] = None
    timeout: Annotated[
        float | None,
        _preference("GPTOSS_TIMEOUT", metavar="SECONDS", min=0, max=1e6, help="Cut the answer short after this long."),
    ] = None
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="End the answer before TEXT; repeatable.")
    ] = None
    schema: Annotated[
        str | None, typer.Option("--schema", metavar="FILE|JSON", help="The answer is JSON of this JSON Schema.")
    ] = None
    choice: Annotated[str | None, typer.Option("--choice", metavar="A,B,...", help="The answer is one of these.")] = (
        None
    )
    efforts: Annotated[str | None, typer.Option(metavar="LIST", help="Answer at each: low,medium,high.")] = None

    @property
    def is_buffered(self) -> bool:
        """Whether nothing is printed before the answer is whole."""
        return self.no_stream or self.as_json or self.extract is not None or self.output is not None


class OptionalValueCommand(TyperCommand):
    """A command whose `-x` and `--extract` take their value in the same word or go without, which Typer cannot."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read `args`; a bare one becomes an empty value."""
        takes_value = {flag for p in self.params if not getattr(p, "is_flag", True) for flag in p.opts}
        given: list[str] = []
        before = ""
        for i, word in enumerate(args):
            if word == "--":
                given += args[i:]
                break
            bare = word in _EXTRACT and (before in _EXTRACT or before not in takes_value)
            given.append("--extract=" if bare else word)
            before = "" if before in takes_value and before not in _EXTRACT else word
        return super().parse_args(ctx, given)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make `function` a command that Typer can read.

    Its parameter `console` gets the Console with CommonOptions applied, one whose type is a group of options that
    group, and `invocation` (if it has one) Typer's context; the others are its own arguments.
    """
    parameters = inspect.signature(function, eval_str=True).parameters
    annotations = {name: parameter.annotation for name, parameter in parameters.items()}
    groups = {name: kind for name, kind in annotations.items() if isinstance(kind, type) and is_dataclass(kind)}
    takes_invocation = "invocation" in parameters

    def invoke(invocation: typer.Context, **values: Any) -> None:
        _apply(_collect(CommonOptions, values), invocation)
        # Only now are the flags known that silence a warning.
        report = getattr(invocation.default_map, "report", None)
        if report is not None:
            report()
        for name, group in groups.items():
            values[name] = _collect(group, values)
        if takes_invocation:
            values["invocation"] = invocation
        function(console=invocation.obj, **values)

    own = [p for name, p in parameters.items() if name not in ("console", "invocation", *groups)]
    first = inspect.Parameter("invocation", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    flags = (parameter for group in (*groups.values(), CommonOptions) for parameter in _parameters(group))
    everything = [first, *own, *flags]
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
