"""`gptoss bench`: the speed of a model on this machine, and what limits it."""

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from gptoss_cli.chat.opening import choose_checkpoint, choose_placement, place_config
from gptoss_cli.checkpoint import store
from gptoss_cli.cli.hints import notifier
from gptoss_cli.cli.json_output import write_json
from gptoss_cli.cli.model_options import BenchOptions
from gptoss_cli.cli.plan import planned_config
from gptoss_cli.cli.prompt_input import placement_request
from gptoss_cli.engine import loader
from gptoss_cli.engine.benchmark import Benchmark, Spread, Work, measure
from gptoss_cli.engine.generator import Generator
from gptoss_cli.errors import UsageError
from gptoss_cli.generation import Numerics
from gptoss_cli.placement.model_config import ModelConfig, load_config
from gptoss_cli.placement.request import PlacementRequest
from gptoss_cli.terminal.console import Console
from gptoss_cli.terminal.tables import show_table

_SPARE_TOKENS = 16
# A decode that reaches this share of the memory bandwidth is called limited by memory, else by the cores.
_MEMORY_BOUND_SHARE = 0.75
_SMALLEST_GIGABYTES = 0.01  # less is shown as 0.00


def run_bench(model: str | None, options: BenchOptions, console: Console) -> None:
    """Run `gptoss bench`; without a name, for the model that would answer."""
    tokens = options.context + options.prompt + options.generate + _SPARE_TOKENS
    request = placement_request(options, context_tokens=tokens)
    name, load = _choose_model(model, options.random_weights, request, console)
    with console.activity() as activity:
        activity.say(f"Loading {name}")
        began = time.perf_counter()
        generator = load(progress=activity.say)
        load_seconds = time.perf_counter() - began
        measured = measure(
            generator,
            Work(
                context_tokens=options.context,
                prompt_tokens=options.prompt,
                generated_tokens=options.generate,
                repetitions=options.repeat,
                operations=options.kernels,
            ),
            progress=activity.say,
        )
    numerics = generator.numerics
    assert numerics is not None, "every engine knows its numerics"
    if options.as_json or not console.stdout.is_terminal:
        values = {
            "model": name,
            "random_weights": options.random_weights is not None,
            "numerics": asdict(numerics),
            "load_seconds": load_seconds,
            **asdict(measured),
        }
        write_json(values, console)
    else:
        show_table(_rows(name, load_seconds, measured, numerics), _limit(measured, numerics), console)


def _choose_model(
    model: str | None, random_weights: str | None, request: PlacementRequest, console: Console
) -> tuple[str, Callable[..., Generator]]:
    """Return the name of the model to measure, and the function that loads it."""
    notice = notifier(console)
    if random_weights is None:
        name, folder = choose_checkpoint(model, notice)
        placement = choose_placement(name, folder, request, notice, every_reason=console.reads_terminal)
        return name, partial(loader.load, folder, placement, notice=notice)
    if model is not None:
        raise UsageError("Random weights take the place of a model: give one of the two")
    name, config = _shape(random_weights)
    placement = place_config(name, config, request, notice, console.reads_terminal)
    return f"{name} with random weights", partial(loader.load_random, config, placement, notice=notice)


def _shape(wanted: str) -> tuple[str, ModelConfig]:
    """Return the name and the config of a model of which no more than the config need be there."""
    folder = Path(wanted).expanduser()
    files = folder / "config.json", folder / "original" / "config.json"
    found = next((file for file in files if file.is_file()), None)
    if found is not None and store.known_model(wanted) is None:
        return wanted, load_config(found)
    name, config, _ = planned_config(wanted)
    return name, config


def _rows(name: str, load_seconds: float, measured: Benchmark, numerics: Numerics) -> dict[str, str]:
    threads = f"{numerics.threads} thread{'s' if numerics.threads != 1 else ''}"
    behind = f", {measured.context_tokens:,} before them" if measured.context_tokens else ""
    chosen = f" ({numerics.kernels} chosen by {numerics.chosen_by})" if numerics.chosen_by else ""
    rows = {
        "model": f"{name}, {numerics.summary}, {threads}{chosen}",
        f"prefill of {measured.prompt_tokens:,} tokens{behind}": f"{_spread(measured.prefill)} tokens/s",
        f"decode of {measured.generated_tokens:,} tokens": f"{_spread(measured.decode)} tokens/s",
        "memory bandwidth": f"{_spread(measured.bandwidth, 1e-9)} GB/s",
        "share of it used in decode": f"{_spread(measured.bandwidth_share, 100)} %",
        "time to load the weights": f"{load_seconds:.2f} s",
    }
    if measured.process_age_seconds is not None:
        rows["first token of 10"] = f"{measured.process_age_seconds:.1f} s after the start of the program"
    if measured.anonymous_bytes is not None:
        rows["memory besides the weights"] = f"{measured.anonymous_bytes / 2**30:.2f} GiB"
    if measured.gpu_bytes is not None:
        rows["GPU memory"] = f"{measured.gpu_bytes / 2**30:.2f} GiB"
    if measured.expert_hit_rate is not None:
        rows["experts found on the GPU"] = f"{measured.expert_hit_rate:.1%}"
    if measured.outside_share is not None:
        rows["decode outside the kernels"] = f"{measured.outside_share:.1%}"
    if measured.other_cores is not None:
        rows["other programs"] = f"kept {measured.other_cores:.1f} cores busy meanwhile"
    for operation in measured.operations or ():
        rate = operation.bytes / operation.seconds
        share = rate / measured.bandwidth.median
        busy = "" if operation.busy_share is None else f", threads busy {operation.busy_share:.0%}"
        layers = "" if operation.name == "unembedding" else ", all layers"
        rows[operation.name + layers] = (
            f"{1000 * operation.seconds:.2f} ms, {rate / 1e9:.1f} GB/s, {share:.0%} of the bandwidth{busy}"
        )
    return rows


def _spread(values: Spread, factor: float = 1) -> str:
    median, lowest, highest = (value * factor for value in (values.median, values.lowest, values.highest))
    return f"{median:.1f} ({lowest:.1f} to {highest:.1f})"


def _limit(measured: Benchmark, numerics: Numerics) -> str:
    """Return what limits decode, in words."""
    most = measured.bandwidth.median / measured.token_bytes
    cached = (measured.token_bytes - measured.weight_bytes) / 1e9
    parts = f"{measured.weight_bytes / 1e9:.2f} GB of weights"
    if cached >= _SMALLEST_GIGABYTES:
        parts += f" and {cached:.2f} GB of keys and values"
    words = f"Each token reads {parts}: memory allows {most:.1f} tokens/s."
    if numerics.shortcoming is not None:
        return f"{words} {numerics.shortcoming}."
    if measured.gpu_bytes is not None:
        return f"{words} {measured.bandwidth_share.median:.0%} of that is reached."
    limit = "memory" if measured.bandwidth_share.median >= _MEMORY_BOUND_SHARE else "the cores"
    return f"{words} Decode is limited by {limit}."
