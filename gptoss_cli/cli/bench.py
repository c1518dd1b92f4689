"""`gptoss bench`: how fast a model is on this machine, and what limits it."""

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptoss_cli.cli.definition import (
    ActivationsOption,
    DenseOption,
    DeviceOption,
    ExecutionOption,
    GpuMemoryOption,
    ThreadsOption,
    TurnOptions,
    command,
)
from gptoss_cli.settings import Activations, Dense, Execution
from gptoss_cli.terminal.console import Console

if TYPE_CHECKING:
    from gptoss_cli.engine.benchmark import Benchmark, Spread
    from gptoss_cli.generation import Numerics

_JSON_VERSION = 1
# From here on decode is said to be limited by memory rather than by the cores.
_MEMORY_BOUND_SHARE = 0.75


@command
def bench(
    model: Annotated[
        str | None, typer.Argument(metavar="20b|120b|demo|PATH", help="Which model.", show_default=False)
    ] = None,
    *,
    prompt: Annotated[int, typer.Option("--prompt", metavar="N", min=16, help="Tokens to read.")] = 512,
    generate: Annotated[int, typer.Option("--generate", metavar="N", min=2, help="Tokens to decode.")] = 64,
    repeat: Annotated[int, typer.Option("--repeat", metavar="N", min=1, help="Repetitions after one to warm up.")] = 5,
    kernels: Annotated[bool, typer.Option("--kernels", help="Also time each operation of a token.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, on a terminal too.")] = False,
    execution: ExecutionOption = Execution.AUTO,
    device: DeviceOption = "auto",
    gpu_memory: GpuMemoryOption = None,
    dense: DenseOption = Dense.BF16,
    activations: ActivationsOption = Activations.INT16,
    threads: ThreadsOption = None,
    console: Console,
) -> None:
    """Measure how fast a model reads and decodes here, next to how fast this machine reads memory.

    A table on a terminal, else one JSON object. Other programs that run meanwhile make it slower.
    """
    from gptoss_cli.chat import opening

    name, folder = opening.choose_checkpoint(model, console)
    options = TurnOptions(
        context=prompt + generate + 16,
        execution=execution,
        device=device,
        gpu_memory=gpu_memory,
        dense=dense,
        activations=activations,
        threads=threads,
    )
    placement = opening.place(name, folder, options, console)
    with console.activity() as activity:
        activity.say(f"Loading {name}")
        with opening.importing_the_engine():
            from gptoss_cli.engine import benchmark
        began = time.perf_counter()
        generator = opening.load(folder, placement, options, activity.say)
        load_seconds = time.perf_counter() - began
        found = benchmark.measure(
            generator,
            prompt_tokens=prompt,
            generated_tokens=generate,
            repetitions=repeat,
            operations=kernels,
            progress=activity.say,
        )
    numerics = generator.numerics
    assert numerics is not None
    if as_json or not console.stdout.is_terminal:
        console.out(json.dumps(_described(name, load_seconds, found, numerics)) + "\n")
        return
    from gptoss_cli.terminal.tables import show_table

    show_table(_rows(name, load_seconds, found, numerics), _limit(found, numerics), console)


def _described(name: str, load_seconds: float, found: "Benchmark", numerics: "Numerics") -> dict[str, Any]:
    return {
        "version": _JSON_VERSION,
        "model": name,
        "numerics": asdict(numerics),
        "load_seconds": load_seconds,
        **asdict(found),
    }


def _rows(name: str, load_seconds: float, found: "Benchmark", numerics: "Numerics") -> dict[str, str]:
    threads = f"{numerics.threads} thread{'s' if numerics.threads != 1 else ''}"
    rows = {
        "model": f"{name}, {numerics.summary}, {threads}",
        f"prefill of {found.prompt_tokens:,} tokens": f"{_spread(found.prefill)} tokens/s",
        f"decode of {found.generated_tokens:,} tokens": f"{_spread(found.decode)} tokens/s",
        "memory bandwidth": f"{_spread(found.bandwidth, 1e-9)} GB/s",
        "of it reached in decode": f"{_spread(found.bandwidth_share, 100)} %",
        "weights opened": f"{load_seconds:.2f} s",
    }
    if found.process_age_seconds is not None:
        rows["first token of 10"] = f"{found.process_age_seconds:.1f} s after the program began"
    if found.anonymous_bytes is not None:
        rows["memory besides the weights"] = f"{found.anonymous_bytes / 2**30:.2f} GiB"
    if found.gpu_bytes is not None:
        rows["memory of the GPU"] = f"{found.gpu_bytes / 2**30:.2f} GiB"
    if found.expert_hit_rate is not None:
        rows["experts found on the GPU"] = f"{found.expert_hit_rate:.1%}"
    if found.outside_share is not None:
        rows["decode outside the kernels"] = f"{found.outside_share:.1%}"
    for operation in found.operations or ():
        rate = operation.bytes / operation.seconds
        share = rate / found.bandwidth.median
        place = "" if operation.name == "unembedding" else ", all layers"
        rows[operation.name + place] = (
            f"{1000 * operation.seconds:.2f} ms, {rate / 1e9:.1f} GB/s, {share:.0%} of the bandwidth"
        )
    return rows


def _spread(values: "Spread", factor: float = 1) -> str:
    median, lowest, highest = (value * factor for value in (values.median, values.lowest, values.highest))
    return f"{median:.1f} ({lowest:.1f} to {highest:.1f})"


def _limit(found: "Benchmark", numerics: "Numerics") -> str:
    """What limits decode, in words."""
    most = found.bandwidth.median / found.token_bytes
    words = f"A token reads {found.token_bytes / 1e9:.2f} GB of weights: memory allows {most:.1f} tokens/s."
    if numerics.shortcoming is not None:
        return f"{words} {numerics.shortcoming}."
    if found.gpu_bytes is not None:
        reached = found.bandwidth_share.median
        return f"{words} {reached:.0%} of that is reached."
    bound = "memory" if found.bandwidth_share.median >= _MEMORY_BOUND_SHARE else "the cores"
    return f"{words} What limits decode here is {bound}."
