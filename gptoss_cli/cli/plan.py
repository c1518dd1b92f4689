"""`gptoss plan`: how a model would run on this machine, or on another, before anything is downloaded."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptoss_cli import settings
from gptoss_cli.cli.definition import (
    ActivationsOption,
    ContextOption,
    DenseOption,
    DeviceOption,
    ExecutionOption,
    command,
)
from gptoss_cli.cli.sizes import parse_size
from gptoss_cli.settings import Activations, Dense, Execution
from gptoss_cli.terminal.console import Console

if TYPE_CHECKING:
    from gptoss_cli.checkpoint.catalog import Model
    from gptoss_cli.placement.hardware import Hardware
    from gptoss_cli.placement.model_config import ModelConfig
    from gptoss_cli.placement.placement import MemoryUse, Placement
    from gptoss_cli.placement.request import PlacementRequest

_JSON_VERSION = 1


@command
def plan(
    model: Annotated[
        str | None, typer.Argument(metavar="20b|120b|PATH", help="Which model to plan for.", show_default=False)
    ] = None,
    *,
    gpu_memory: Annotated[
        int | None,
        typer.Option(metavar="SIZE", parser=parse_size, help="As if a GPU had so much to give, 0 for none."),
    ] = None,
    ram: Annotated[
        int | None, typer.Option(metavar="SIZE", parser=parse_size, help="As if the machine had so much memory.")
    ] = None,
    execution: ExecutionOption = Execution.AUTO,
    device: DeviceOption = "auto",
    context: ContextOption = None,
    dense: DenseOption = Dense.BF16,
    activations: ActivationsOption = Activations.INT16,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, on a terminal too.")] = False,
    console: Console,
) -> None:
    """Tell how a model would run: where its weights go, how long a context fits, how fast it can be, and why.

    Nothing has to be downloaded for it. --gpu-memory 24GiB --ram 64GiB describes another machine.
    """
    from gptoss_cli.placement import choose
    from gptoss_cli.placement.hardware import detect
    from gptoss_cli.placement.request import PlacementRequest

    wishes = PlacementRequest(
        execution=execution, device=device, context_tokens=context, dense=dense, activations=activations
    )
    name, config, download_bytes = planned_model(model)
    machine, wishes = to_json(detect(settings.data_folder()), wishes, gpu_bytes=gpu_memory, ram_bytes=ram)
    placed = choose.choose(config, machine, wishes)
    missing = disk_problem(machine, download_bytes)
    if as_json:
        told = _told(name, placed, machine, download_bytes) | ({"disk_problem": missing} if missing else {})
        console.out(json.dumps(told, ensure_ascii=False) + "\n")
    else:
        console.out(_drawn(name, placed, console.stdout.columns) + _about_disk(machine, download_bytes, missing))


def planned_model(wanted: str | None) -> tuple[str, "ModelConfig", int]:
    """Name, config and what is still to be downloaded of it, in bytes; without a wish the one that would answer.

    A published model needs no files. Raises what is wrong with a name, a folder or its config.
    """
    from gptoss_cli.checkpoint import catalog, store
    from gptoss_cli.placement.model_config import load_config, published_config

    installed = store.installed()
    model = catalog.find_model(wanted) if wanted else _default_model(installed)
    if model is not None and model.published is not None:
        size = 0 if model.name in installed else model.published.download_bytes
        return model.name, published_config(layers=model.published.layers, experts=model.published.experts), size
    if model is not None:
        from gptoss_cli.demo.unpack import demo_checkpoint

        return model.name, load_config(demo_checkpoint() / "config.json"), 0
    assert wanted is not None
    return wanted, load_config(_config_file(Path(wanted).expanduser(), wanted)), 0


def _config_file(folder: Path, wanted: str) -> Path:
    """The config of a folder that may lack the weights; for anything else the error that `ask -m` gives."""
    from gptoss_cli.checkpoint.store import find_checkpoint

    places = (folder / "config.json", folder / "original" / "config.json")
    found = next((place for place in places if place.is_file()), None)
    return found or find_checkpoint(wanted) / "config.json"


def _default_model(installed: dict[str, Any]) -> "Model":
    from gptoss_cli.checkpoint import catalog

    return next((model for model in catalog.MODELS if model.name in installed), catalog.MODELS[0])


def to_json(
    machine: "Hardware", wishes: "PlacementRequest", *, gpu_bytes: int | None, ram_bytes: int | None
) -> tuple["Hardware", "PlacementRequest"]:
    """The machine that is meant. A GPU of this one that has `gpu_bytes` to give is taken with that much of it."""
    from gptoss_cli.placement.hardware import Cuda, Gpu

    if ram_bytes is not None:
        # A system takes some of it for itself; a tenth is what is left out here.
        available = ram_bytes - ram_bytes // 10
        machine = replace(machine, memory_bytes=ram_bytes, available_bytes=available, group_limit_bytes=None)
    if gpu_bytes is None:
        return machine, wishes
    if gpu_bytes == 0:
        return replace(machine, gpus=(), apple_gpu=None, cuda=Cuda.ABSENT), wishes
    if machine.cuda is Cuda.USABLE and max(gpu.free_bytes for gpu in machine.gpus) >= gpu_bytes:
        return machine, replace(wishes, gpu_memory_bytes=gpu_bytes)
    gpu = Gpu(name="as to_json", total_bytes=gpu_bytes, free_bytes=gpu_bytes)
    imagined = replace(
        machine, gpus=(gpu,), apple_gpu=None, cuda=Cuda.USABLE, triton=True, compiler=True, lockable_bytes=None
    )
    return imagined, wishes


def disk_problem(machine: "Hardware", download_bytes: int) -> str | None:
    """That a download does not fit where checkpoints go."""
    if machine.disk_bytes is None or machine.disk_bytes >= download_bytes:
        return None
    missing = (download_bytes - machine.disk_bytes) / 1e9
    return f"The disk of {settings.data_folder()} is {missing:.1f} GB short of the download."


def _told(name: str, placed: "Placement", machine: "Hardware", download_bytes: int) -> dict[str, Any]:
    return {
        "version": _JSON_VERSION,
        "model": name,
        **placed.to_json(),
        "download_bytes": download_bytes,
        "disk_bytes": machine.disk_bytes,
    }


def _drawn(name: str, placed: "Placement", columns: int) -> str:
    lines = [f"{name}: {placed.summary}", ""]
    if placed.gpu is not None:
        lines += [_pictured(placed.device, placed.gpu, columns), ""]
    lines += [_pictured("Host memory", placed.host, columns), ""]
    lines += [*_bound_lines(placed), "", "Why:"]
    lines += [f"{'!' if reason.is_warning else '-'} {reason.text}" for reason in placed.reasons]
    return "\n".join(lines) + "\n"


def _pictured(title: str, share: "MemoryUse", columns: int) -> str:
    from gptoss_cli.placement.reasons import gib
    from gptoss_cli.terminal.tables import MemoryPart, memory_bar

    sizes = {
        "dense": share.dense_bytes,
        "experts": share.experts_bytes,
        "KV cache": share.cache_bytes,
        "working memory": share.work_bytes,
        "free": share.free_bytes,
    }
    parts = [MemoryPart(name, size, gib(size)) for name, size in sizes.items()]
    room = "unknown room" if share.room_bytes is None else gib(share.room_bytes)
    return memory_bar(f"{title}: {gib(share.used_bytes)} of {room}", parts, columns)


def _bound_lines(placed: "Placement") -> Iterator[str]:
    from gptoss_cli.placement.reasons import Code

    bound = placed.bound
    reads = (
        (bound.gpu_bytes, bound.gpu_bytes_per_second, "of GPU memory"),
        (bound.link_bytes, bound.link_bytes_per_second, "over PCIe"),
        (bound.host_bytes, bound.host_bytes_per_second, "of host memory"),
    )
    slower = ", far fewer while weights come from the disk"
    beyond = slower if any(reason.code is Code.FROM_DISK for reason in placed.reasons) else ""
    yield f"At most {bound.tokens_per_second:.1f} tokens/s{beyond}. A token reads, dense weights in {placed.dense}:"
    for size, speed, where in reads:
        if size:
            yield f"  {size / 1e9:.2f} GB {where}, {speed / 1e9:.0f} GB/s assumed"


def _about_disk(machine: "Hardware", download_bytes: int, problem: str | None) -> str:
    if not download_bytes:
        return ""
    free = "" if machine.disk_bytes is None else f"; {machine.disk_bytes / 1e9:.1f} GB of disk are free"
    warning = f"! {problem}\n" if problem else ""
    return f"\nTo be downloaded: {download_bytes / 1e9:.1f} GB{free}.\n{warning}"
