"""Options of the commands, each declared once, and the groups of options that a command receives as one value."""

import datetime
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from gptoss_cli import __version__
from gptoss_cli.cli.server_options import KeyFileOption, ServerApiOption, ServerModelOption, ServerOption
from gptoss_cli.cli.values import parse_date, parse_device, parse_size
from gptoss_cli.paths import typed_output, typed_path
from gptoss_cli.settings import (
    LARGEST_SEED,
    Activations,
    ColorChoice,
    Dense,
    Dtype,
    Execution,
    ExportFormat,
    ReasoningDisplay,
    ReasoningEffort,
)

LONGEST_CONTEXT_TOKENS = 131_072


class CacheAction(StrEnum):
    """The actions of `gptoss cache`."""

    LIST = "list"
    CLEAR = "clear"


class ConfigAction(StrEnum):
    """The actions of `gptoss config`."""

    SHOW = "show"
    PATH = "path"
    EDIT = "edit"
    SET = "set"


class Shell(StrEnum):
    """The shells that have a completion script."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"


def _print_version(invocation: typer.Context, wanted: bool) -> None:
    if wanted:
        invocation.obj.console.out(f"gptoss {__version__}\n")
        raise typer.Exit


def _refuse_zero(value: float) -> float:
    if value == 0:
        raise typer.BadParameter("0 leaves no token to choose. For the likeliest token always: --temperature 0")
    return value


def _setting(variable: str, *flags: str, **details: Any) -> Any:
    """Return an option that the environment and config.toml can set too."""
    return typer.Option(*flags, envvar=variable, show_envvar=False, **details)


ContextOption = Annotated[
    int | None,
    _setting(
        "GPTOSS_CONTEXT", metavar="N", min=2, max=LONGEST_CONTEXT_TOKENS, help="Maximum tokens of a conversation."
    ),
]
ExecutionOption = Annotated[
    Execution,
    _setting("GPTOSS_EXECUTION", help="All weights on the GPU (mxfp4), experts in host memory (offload), or the CPU."),
]
DeviceOption = Annotated[
    str,
    _setting(
        "GPTOSS_DEVICE",
        metavar="auto|cpu|cuda[:N]|mps",
        parser=parse_device,
        help="Device that computes; auto chooses.",
    ),
]
GpuMemoryOption = Annotated[
    int | None,
    _setting("GPTOSS_GPU_MEMORY", metavar="SIZE", parser=parse_size, help="Maximum GPU memory to use, such as 8GiB."),
]
DenseOption = Annotated[
    Dense,
    _setting("GPTOSS_DENSE", help="Attention and unembedding weights: bf16 as published; int8 smaller and faster."),
]
ActivationsOption = Annotated[
    Activations,
    _setting("GPTOSS_ACTIVATIONS", help="Activations for the experts on the CPU; int8 is faster, less precise."),
]
ThreadsOption = Annotated[
    int | None, _setting("GPTOSS_THREADS", metavar="N", min=1, max=1024, help="CPU threads; by default one per core.")
]
ContinueOption = Annotated[
    bool, typer.Option("--continue", "-c", help="Continue the conversation that was updated last.")
]
ResumeOption = Annotated[
    str | None, typer.Option("--resume", metavar="ID|TITLE", help="Continue this conversation.", show_default=False)
]
KvLimitOption = Annotated[
    int | None,
    _setting(
        "GPTOSS_HISTORY_KV_LIMIT",
        metavar="SIZE",
        parser=parse_size,
        help="Disk space for KV caches of conversations, such as 8GiB; by default 4GiB, and 0 keeps none.",
    ),
]
SaveReasoningOption = Annotated[
    bool,
    _setting("GPTOSS_HISTORY_REASONING", "--save-reasoning/--no-save-reasoning", help="Save the reasoning too."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


# Every start of the program makes these classes; without __eq__ and __repr__ that takes a third of the time.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class CommonOptions:
    """The options of every command, allowed before its name or after it."""

    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log the steps of the program on stderr.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notices and no progress.")] = False
    color: Annotated[
        ColorChoice | None,
        _setting("GPTOSS_COLOR", help="Colour on stderr; auto: if it is a terminal that has colours."),
    ] = None
    debug: Annotated[bool, typer.Option("--debug", help="Log details, and show the traceback of an error.")] = False
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TurnOptions:
    """The options that `ask` and `chat` share: the model, and how it answers."""

    model: Annotated[
        str | None,
        _setting("GPTOSS_MODEL", "--model", "-m", metavar="20b|120b|demo|PATH", help="Model that answers."),
    ] = None
    effort: Annotated[
        ReasoningEffort,
        _setting("GPTOSS_EFFORT", "--effort", "-e", help="Amount of reasoning; the model was not trained for none."),
    ] = ReasoningEffort.MEDIUM
    instructions: Annotated[
        str | None,
        _setting(
            "GPTOSS_INSTRUCTIONS",
            "--instructions",
            "-s",
            metavar="TEXT|@FILE",
            help="Developer instructions for the model.",
        ),
    ] = None
    temperature: Annotated[
        float,
        _setting(
            "GPTOSS_TEMPERATURE",
            "--temperature",
            "-t",
            metavar="X",
            min=0,
            max=10,
            help="Randomness; 0 takes the likeliest token.",
        ),
    ] = 1.0
    top_p: Annotated[
        float,
        _setting(
            "GPTOSS_TOP_P",
            metavar="X",
            min=0,
            max=1,
            callback=_refuse_zero,
            help="Only the likeliest tokens that make up this share of the probability.",
        ),
    ] = 1.0
    top_k: Annotated[int | None, _setting("GPTOSS_TOP_K", metavar="N", min=1, help="Only the N likeliest tokens.")] = (
        None
    )
    seed: Annotated[
        int | None,
        _setting("GPTOSS_SEED", metavar="N", min=0, max=LARGEST_SEED, help="Seed; the same one repeats an answer."),
    ] = None
    date: Annotated[
        datetime.date | None,
        _setting(
            "GPTOSS_DATE",
            metavar="YYYY-MM-DD",
            parser=parse_date,
            help="Date that the model is told, by default today; with --seed it repeats an answer.",
        ),
    ] = None
    max_tokens: Annotated[
        int | None,
        _setting("GPTOSS_MAX_TOKENS", metavar="N", min=1, help="End the turn after N tokens, reasoning included."),
    ] = None
    think_budget: Annotated[
        int | None,
        _setting("GPTOSS_THINK_BUDGET", metavar="N", min=0, help="End the reasoning after N tokens and answer."),
    ] = None
    free_headers: Annotated[
        bool, typer.Option("--free-headers", help="Do not constrain the message headers that the model writes.")
    ] = False
    context: ContextOption = None
    execution: ExecutionOption = Execution.AUTO
    device: DeviceOption = "auto"
    gpu_memory: GpuMemoryOption = None
    dtype: Annotated[Dtype, _setting("GPTOSS_DTYPE", help="Floating-point type of the computation.")] = Dtype.BFLOAT16
    dense: DenseOption = Dense.BF16
    activations: ActivationsOption = Activations.INT16
    threads: ThreadsOption = None
    no_prefix_cache: Annotated[
        bool,
        typer.Option("--no-prefix-cache", help="Do not reuse cached work for the system message and instructions."),
    ] = False
    kv_limit: KvLimitOption = None
    server: ServerOption = None
    server_model: ServerModelOption = None
    server_api: ServerApiOption = None
    api_key_file: KeyFileOption = None
    reasoning: Annotated[
        ReasoningDisplay | None, _setting("GPTOSS_REASONING", help="Show, collapse or hide the reasoning.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TemplateOptions:
    """The options of `ask` and `chat` about prompt templates. A parameter is NAME=VALUE here."""

    template: Annotated[
        str | None,
        typer.Option("--template", metavar="NAME", help="Put the prompt into a text of the settings folder."),
    ] = None
    parameters: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME VALUE", help="With --template: the value of $NAME; repeatable."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class HistoryOptions:
    """The options of `chat` about the conversations on disk."""

    continue_last: ContinueOption = False
    resume: ResumeOption = None
    at: Annotated[
        int | None,
        typer.Option(
            "--at", metavar="N", min=0, help="With -c or --resume: continue a copy that ends after your Nth message."
        ),
    ] = None
    fork: Annotated[bool, typer.Option("--fork", help="With -c or --resume: continue a copy of the conversation.")] = (
        False
    )
    save: Annotated[
        bool,
        _setting("GPTOSS_HISTORY_SAVE", "--save/--no-save", help="Save the conversation, or write nothing to disk."),
    ] = True
    save_reasoning: SaveReasoningOption = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class AskHistoryOptions:
    """The options of `ask` about the conversations on disk."""

    continue_last: ContinueOption = False
    resume: ResumeOption = None
    save: Annotated[bool, _setting("GPTOSS_HISTORY_ASK", "--save", help="Save the question and the answer.")] = False
    no_save: Annotated[bool, typer.Option("--no-save", help="Write nothing, not even with -c or --resume.")] = False
    title: Annotated[
        str | None, typer.Option("--title", metavar="TEXT", help="With --save: the title of the conversation.")
    ] = None
    save_reasoning: SaveReasoningOption = True

    @property
    def saves(self) -> bool:
        """True if the turn is saved."""
        return not self.no_save and (self.save or self.continue_last or self.resume is not None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class AnswerOptions:
    """The options that `ask` alone has: input besides the words, when the answer ends, its format and its output."""

    files: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", metavar="PATH", parser=typed_path, help="Text file to ask about; repeatable."),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the text.")] = False
    stream_json: Annotated[bool, typer.Option("--stream-json", help="Print JSON lines as the answer is generated.")] = (
        False
    )
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Print the answer only when it is complete.")] = False
    extract: Annotated[
        str | None,
        typer.Option(
            "--extract",
            "-x",
            metavar="[=LANG]",
            help="Print only the first code block; -xLANG: the first one in that language.",
        ),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            parser=typed_output,
            help="Write the answer to FILE, all of it or nothing.",
        ),
    ] = None
    timeout: Annotated[
        float | None,
        _setting("GPTOSS_TIMEOUT", metavar="SECONDS", min=0, max=1e6, help="Stop the answer after this many seconds."),
    ] = None
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="End the answer before TEXT; repeatable.")
    ] = None
    schema: Annotated[
        str | None, typer.Option("--schema", metavar="FILE|JSON", help="JSON Schema that the answer must match.")
    ] = None
    choice: Annotated[
        str | None, typer.Option("--choice", metavar="A,B,...", help="The answer must be one of these.")
    ] = None
    logprobs: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            min=0,
            max=20,
            help="With --json or --stream-json: log probability of each token, and the K likeliest ones.",
        ),
    ] = None
    efforts: Annotated[
        str | None, typer.Option(metavar="LIST", help="Answer once at each effort, such as low,medium,high.")
    ] = None

    @property
    def is_buffered(self) -> bool:
        """True if nothing is printed before the answer is complete."""
        return self.no_stream or self.as_json or self.extract is not None or self.output is not None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ConversationExportOptions:
    """The options of `conversations export`."""

    every: Annotated[bool, typer.Option("--all", help="Export all conversations.")] = False
    form: Annotated[
        ExportFormat | None, typer.Option("--format", "-f", help="Format; by default that of the FILE's name, else md.")
    ] = None
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE|-", parser=typed_output, help="File to write.")
    ] = None
    reasoning: Annotated[bool, typer.Option("--reasoning", help="With md and jsonl: the reasoning too.")] = False
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False
