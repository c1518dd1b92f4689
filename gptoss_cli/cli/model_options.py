"""The options of the commands that describe or measure models. A command receives them as one value."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gptoss_cli.cli.options import (
    ActivationsOption,
    ContextOption,
    DenseOption,
    DeviceOption,
    ExecutionOption,
    GpuMemoryOption,
    JsonOption,
    ThreadsOption,
)
from gptoss_cli.cli.values import parse_size
from gptoss_cli.paths import typed_output
from gptoss_cli.settings import Activations, Dense, Execution, Group


class Experiment(StrEnum):
    """The values of `inspect --experiment`."""

    K_BIAS = "k-bias"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class PlanOptions:
    """The options of `plan`: the hardware to plan for, and how the model should run on it."""

    gpu_memory: Annotated[
        int | None,
        typer.Option(metavar="SIZE", parser=parse_size, help="Pretend a GPU with this much free memory; 0 for no GPU."),
    ] = None
    ram: Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=parse_size,
            help="Pretend a machine with this much memory, of which the system uses a tenth.",
        ),
    ] = None
    execution: ExecutionOption = Execution.AUTO
    device: DeviceOption = "auto"
    context: ContextOption = None
    conversations: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=64, help="Plan a server that keeps N conversations.")
    ] = None
    dense: DenseOption = Dense.BF16
    activations: ActivationsOption = Activations.INT16
    as_json: JsonOption = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class BenchOptions:
    """The options of `bench`: the amount of work to time, and how the model should run."""

    context: Annotated[
        int, typer.Option("--context", metavar="N", min=0, help="Tokens assumed to be in the KV cache already.")
    ] = 0
    prompt: Annotated[int, typer.Option("--prompt", metavar="N", min=16, help="Tokens to prefill.")] = 512
    generate: Annotated[int, typer.Option("--generate", metavar="N", min=2, help="Tokens to decode.")] = 64
    repeat: Annotated[int, typer.Option("--repeat", metavar="N", min=1, help="Repetitions after one to warm up.")] = 5
    kernels: Annotated[bool, typer.Option("--kernels", help="Also time each operation of a token.")] = False
    random_weights: Annotated[
        str | None,
        typer.Option(
            "--random-weights", metavar="20b|120b|PATH", help="Measure random weights of this shape; no download."
        ),
    ] = None
    as_json: JsonOption = False
    execution: ExecutionOption = Execution.AUTO
    device: DeviceOption = "auto"
    gpu_memory: GpuMemoryOption = None
    dense: DenseOption = Dense.BF16
    activations: ActivationsOption = Activations.INT16
    threads: ThreadsOption = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class CompareOptions:
    """The options of `compare`: the rows to show, and their form."""

    by: Annotated[Group | None, typer.Option(help="Show only this group of rows.")] = None
    context: Annotated[
        int, typer.Option(metavar="N", min=1, max=1 << 24, help="Tokens that cache and attention are computed for.")
    ] = 32_768
    benchmarks: Annotated[bool, typer.Option("--benchmarks", help="Show published results with their sources.")] = False
    explain: Annotated[
        str | None,
        typer.Option(metavar="FIGURE", help='Show the formula and the operands of a row, such as "active parameters".'),
    ] = None
    as_json: JsonOption = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class EvaluateOptions:
    """The options that `evaluate` alone has: how often to ask, and the form of the results."""

    efforts: Annotated[str, typer.Option(metavar="LIST", help="Efforts to measure.")] = "low,medium,high"
    repeat: Annotated[int, typer.Option("--repeat", metavar="N", min=1, max=1000, help="Answers to each question.")] = 1
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            parser=typed_output,
            help="File for the results; by default beside the questions.",
        ),
    ] = None
    as_json: JsonOption = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class InspectOptions:
    """The options of `inspect`: the views to show instead of the table of parts."""

    diagram: Annotated[bool, typer.Option("--diagram", help="Draw the model as a diagram.")] = False
    tensors: Annotated[bool, typer.Option("--tensors", help="List the tensors of the checkpoint.")] = False
    sinks: Annotated[
        bool, typer.Option("--sinks", help="Show the sink logits; with --prompt also the mass they take.")
    ] = False
    rope: Annotated[bool, typer.Option("--rope", help="Show the RoPE periods with and without YaRN.")] = False
    experiment: Annotated[
        Experiment | None, typer.Option(help="Measure whether the bias of the keys has an effect; runs the model.")
    ] = None
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Show the token ids of the prompt that TEXT becomes.")
    ] = None
    as_json: JsonOption = False
