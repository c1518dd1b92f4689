"""`gptoss plan`: how a model would run on this machine or on another one, before anything is downloaded."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptoss_cli import settings
from gptoss_cli.checkpoint import catalog, store
from gptoss_cli.checkpoint.folder import weights_folder
from gptoss_cli.cli.damaged_copies import notice_damaged_copies
from gptoss_cli.cli.hints import sentence
from gptoss_cli.cli.json_output import write_json
from gptoss_cli.cli.model_options import PlanOptions
from gptoss_cli.errors import GptossError
from gptoss_cli.placement import hardware
from gptoss_cli.placement.choose import choose
from gptoss_cli.placement.gpus import Cuda, Gpu
from gptoss_cli.placement.hardware import Hardware
from gptoss_cli.placement.model_config import ModelConfig, load_config, published_config
from gptoss_cli.placement.placement import MemoryUse, Placement
from gptoss_cli.placement.reasons import Code, gib
from gptoss_cli.placement.request import PlacementRequest
from gptoss_cli.terminal.console import Console
from gptoss_cli.terminal.tables import MemoryPart, memory_bar


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """The placement of one published model on a machine; None, and the `problem` in words, if it cannot run there."""

    name: str
    placement: Placement | None
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the placement or the problem as JSON values."""
        return {"problem": self.problem} if self.placement is None else self.placement.to_json()

    def reasons(self) -> Iterator[tuple[str, bool]]:
        """Yield each reason in words, and True if it is a warning."""
        if self.placement is None:
            yield self.problem, True
        else:
            yield from ((reason.text, reason.is_warning) for reason in self.placement.reasons)


def published_plans(machine: Hardware) -> Iterator[PlannedModel]:
    """Plan every published model for `machine`."""
    for model in catalog.MODELS:
        if model.published is not None:
            config = published_config(layers=model.published.layers, experts=model.published.experts)
            try:
                yield PlannedModel(model.name, choose(config, machine))
            except GptossError as exc:
                yield PlannedModel(model.name, None, sentence(exc))


def run_plan(model: str | None, options: PlanOptions, console: Console) -> None:
    """Run `gptoss plan`; without a name, for the model that would answer."""
    request = PlacementRequest(
        execution=options.execution,
        device=options.device,
        context_tokens=options.context,
        dense=options.dense,
        activations=options.activations,
        sequences=1 if options.conversations is None else options.conversations + 1,
    )
    notice_damaged_copies(console)
    name, config, download_bytes = planned_config(model)
    detected = hardware.detect(settings.data_folder())
    machine, request = described_machine(detected, request, gpu_bytes=options.gpu_memory, ram_bytes=options.ram)
    placement = choose(config, machine, request)
    problem = disk_problem(machine, download_bytes)
    if options.as_json:
        values = {
            "model": name,
            **placement.to_json(),
            "download_bytes": download_bytes,
            "disk_bytes": machine.disk_bytes,
        }
        write_json(values | ({"disk_problem": problem} if problem else {}), console)
    else:
        console.out(_drawn(name, placement, console.stdout.columns) + _about_disk(machine, download_bytes, problem))


def planned_config(wanted: str | None) -> tuple[str, ModelConfig, int | None]:
    """Return the name of a model, its config, and how many bytes must still be downloaded, None if that is not known.

    None is the model that would answer. A published model needs no files. Raises UsageError, NotInstalledError or
    IntegrityError for a wrong name, folder or config.
    """
    installed = store.installed()
    model = store.known_model(wanted) if wanted else _default_model(installed)
    if model is not None and model.published is not None:
        size = 0 if model.name in installed else model.published.download_bytes
        return model.name, published_config(layers=model.published.layers, experts=model.published.experts), size
    if model is not None:
        # Only here: unpacking needs numpy, which takes longer to import than a plan to make.
        from gptoss_cli.demo.unpack import demo_checkpoint

        return model.name, load_config(demo_checkpoint() / "config.json"), 0
    assert wanted is not None
    return wanted, load_config(weights_folder(store.find_checkpoint(wanted)) / "config.json"), 0


def _default_model(installed: dict[str, Path]) -> catalog.Model:
    return next((model for model in catalog.MODELS if model.name in installed), catalog.MODELS[0])


def described_machine(
    machine: Hardware, request: PlacementRequest, *, gpu_bytes: int | None, ram_bytes: int | None
) -> tuple[Hardware, PlacementRequest]:
    """Return the machine that --gpu-memory and --ram describe. A real GPU with `gpu_bytes` free is limited to that."""
    if ram_bytes is not None:
        # The operating system uses part of it: a tenth is assumed.
        reserved = ram_bytes // 10
        machine = replace(
            machine,
            memory_bytes=ram_bytes,
            available_bytes=ram_bytes - reserved,
            reserved_bytes=reserved,
            group_limit_bytes=None,
        )
    if gpu_bytes is None:
        return machine, request
    if gpu_bytes == 0:
        return replace(machine, gpus=(), apple_gpu=None, cuda=Cuda.ABSENT), request
    if machine.cuda is Cuda.USABLE and max(gpu.free_bytes for gpu in machine.gpus) >= gpu_bytes:
        return machine, replace(request, gpu_memory_bytes=gpu_bytes)
    gpu = Gpu(name="as described", total_bytes=gpu_bytes, free_bytes=gpu_bytes)
    imagined = replace(machine, gpus=(gpu,), apple_gpu=None, cuda=Cuda.USABLE, rocm=None, triton=True, compiler=True)
    return imagined, request


def disk_problem(machine: Hardware, download_bytes: int | None) -> str | None:
    """Return a sentence if the download does not fit on the disk of the checkpoints, else None."""
    if machine.disk_bytes is None or download_bytes is None or machine.disk_bytes >= download_bytes:
        return None
    missing = (download_bytes - machine.disk_bytes) / 1e9
    return f"The disk of {settings.data_folder()} is {missing:.1f} GB too small for the download."


def _drawn(name: str, placement: Placement, columns: int) -> str:
    lines = [f"{name}: {placement.summary}", ""]
    if placement.gpu is not None:
        lines += [_drawn_memory(placement.device, placement.gpu, columns), ""]
    lines += [_drawn_memory("Host memory", placement.host, columns), ""]
    lines += [*_bound_lines(placement), "", "Why:"]
    lines += [f"{'!' if reason.is_warning else '-'} {reason.text}" for reason in placement.reasons]
    return "\n".join(lines) + "\n"


def _drawn_memory(title: str, use: MemoryUse, columns: int) -> str:
    sizes = {
        "dense": use.dense_bytes,
        "experts": use.experts_bytes,
        "KV cache": use.cache_bytes,
        "working memory": use.work_bytes,
        "free": use.free_bytes,
    }
    parts = [MemoryPart(name, size, gib(size)) for name, size in sizes.items()]
    room = "an unknown amount" if use.room_bytes is None else gib(use.room_bytes)
    return memory_bar(f"{title}: {gib(use.used_bytes)} of {room}", parts, columns)


def _bound_lines(placement: Placement) -> Iterator[str]:
    bound = placement.bound
    reads = (
        (bound.gpu_bytes, bound.gpu_bytes_per_second, "of GPU memory"),
        (bound.link_bytes, bound.link_bytes_per_second, "over PCIe"),
        (bound.host_bytes, bound.host_bytes_per_second, "of host memory"),
    )
    slower = ", far fewer while weights come from the disk"
    beyond = slower if any(reason.code is Code.FROM_DISK for reason in placement.reasons) else ""
    dense = f"Each token reads, with dense weights in {placement.dense}:"
    # Which experts are in the GPU's memory depends on the text.
    rate = f"{bound.tokens_per_second:.1f} tokens/s"
    yield (
        f"About {rate} if all experts are used alike. {dense}"
        if bound.link_bytes
        else f"At most {rate}{beyond}. {dense}"
    )
    for size, speed, memory in reads:
        if size:
            yield f"  {size / 1e9:.2f} GB {memory}, {speed / 1e9:.0f} GB/s assumed"


def _about_disk(machine: Hardware, download_bytes: int | None, problem: str | None) -> str:
    if download_bytes is None:
        return "\nNot downloaded. Its size is shown before a download begins.\n"
    if not download_bytes:
        return ""
    free = "" if machine.disk_bytes is None else f"; {machine.disk_bytes / 1e9:.1f} GB of disk space are free"
    warning = f"! {problem}\n" if problem else ""
    return f"\nTo download: {download_bytes / 1e9:.1f} GB{free}.\n{warning}"
