"""`gptoss doctor`: what is here, what is missing, and what to do about it."""

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptoss_cli import __version__, settings
from gptoss_cli.cli.definition import command
from gptoss_cli.cli.outlook import PlannedModel, outlooks
from gptoss_cli.terminal.console import Console

if TYPE_CHECKING:
    from gptoss_cli.placement.hardware import Hardware

_JSON_VERSION = 1
_DRIVER_ADVICE = "Update the NVIDIA driver, or install the build of torch that goes with it."


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `advice` says what to do where something is amiss, and is empty elsewhere."""

    name: str
    found: str
    advice: str = ""


@command
def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, on a terminal too.")] = False,
    console: Console,
) -> None:
    """Look at what gptoss needs: GPU, memory, disk, torch, Triton, models. Says what to do about each problem."""
    from gptoss_cli.checkpoint import store
    from gptoss_cli.placement.hardware import detect

    machine = detect(settings.data_folder())
    checks, models, installed = list(look(machine)), list(outlooks(machine)), store.installed()
    folders = {name: str(folder) for name, folder in installed.items()}
    if as_json:
        console.out(json.dumps(_told(machine, checks, models, folders), ensure_ascii=False) + "\n")
    else:
        console.out(_written(checks, models, folders))


def look(machine: "Hardware") -> Iterator[Check]:
    """Everything that is looked at, in the order it is shown."""
    yield Check("gptoss", f"{__version__}, Python {platform.python_version()}, {platform.system()}")
    advice = "" if machine.torch else "Install it: pip install torch"
    yield Check("torch", machine.torch or "not installed", advice)
    yield _present("CPU kernels", machine.kernels, "Install a C compiler, for example gcc, and then gptoss again.")
    yield from _look_at_gpus(machine)
    yield from _look_at_memory(machine)
    disk = "unknown" if machine.disk_bytes is None else f"{machine.disk_bytes / 1e9:.1f} GB free"
    yield Check("disk", f"{disk} for {settings.data_folder()}")
    for name, folder in (("settings", settings.config_folder()), ("cache", settings.cache_folder())):
        yield Check(name, str(folder))


def _look_at_gpus(machine: "Hardware") -> Iterator[Check]:
    from gptoss_cli.placement.hardware import Cuda
    from gptoss_cli.placement.reasons import gib

    for number, gpu in enumerate(machine.gpus):
        capability = "" if gpu.capability is None else f", compute capability {gpu.capability[0]}.{gpu.capability[1]}"
        found = f"{gpu.name}, {gib(gpu.free_bytes)} of {gib(gpu.total_bytes)} free{capability}"
        yield Check(f"GPU {number}", found)
    if (apple := machine.apple_gpu) is not None:
        yield Check("GPU", f"{apple.name}, which may have {gib(apple.free_bytes)} of {gib(apple.total_bytes)} now")
    if machine.cuda is Cuda.ABSENT:
        if machine.apple_gpu is None:
            yield Check("GPU", "there is no NVIDIA GPU")
        return
    advice = {
        Cuda.HIDDEN: "Unset CUDA_VISIBLE_DEVICES.",
        Cuda.NOT_BUILT: "Install a build of torch with CUDA; torch's installation page gives the command.",
        Cuda.FAILS: _DRIVER_ADVICE,
    }
    found = f"{machine.cuda}{', driver ' + machine.driver if machine.driver else ''}"
    yield Check(
        "CUDA", f"{found}{': ' + machine.cuda_problem if machine.cuda_problem else ''}", advice.get(machine.cuda, "")
    )
    yield _present("Triton", machine.triton, "Install it: pip install triton")
    advice_text = "Install gcc and Python's development files; Triton builds its kernels with them."
    yield _present("C compiler and Python headers", machine.compiler, advice_text)


def _look_at_memory(machine: "Hardware") -> Iterator[Check]:
    from gptoss_cli.placement.reasons import gib

    if machine.available_bytes is None or machine.memory_bytes is None:
        yield Check("memory", "unknown", "Give --context if a long one would not fit.")
    else:
        yield Check("memory", f"{gib(machine.available_bytes)} of {gib(machine.memory_bytes)} available")
    if machine.group_limit_bytes is not None:
        yield Check("control group", f"memory is limited to {gib(machine.group_limit_bytes)}")
    if machine.gpus:
        limit = machine.lockable_bytes
        yield Check("lockable memory", "unlimited" if limit is None else gib(limit))


def _present(name: str, there: bool, advice: str) -> Check:
    return Check(name, "present", "") if there else Check(name, "missing", advice)


def _told(
    machine: "Hardware", checks: list[Check], models: list[PlannedModel], folders: dict[str, str]
) -> dict[str, Any]:
    return {
        "version": _JSON_VERSION,
        "machine": asdict(machine),
        "checks": [asdict(check) for check in checks],
        "models": [{"name": model.name, "folder": folders.get(model.name), **model.to_json()} for model in models],
    }


def _written(checks: list[Check], models: list[PlannedModel], folders: dict[str, str]) -> str:
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{'!' if check.advice else ' '} {check.name:<{width}}  {check.found}")
        if check.advice:
            lines.append(f"  {'':<{width}}  {check.advice}")
    for model in models:
        where = f"in {folders[model.name]}" if model.name in folders else "not downloaded"
        lines += ["", f"{model.name} ({where}): {model.placement.summary if model.placement else 'cannot run here'}"]
        lines += (f"{'!' if is_warning else '-'} {text}" for text, is_warning in model.reasons())
    return "\n".join(lines) + "\n"
