"""`gptoss doctor --gpu`: every kernel of the GPU compared with the reference kernels, in about a minute."""

import math
import os
import time
from dataclasses import asdict
from typing import Any

import typer

from gptoss_cli import settings
from gptoss_cli.cli.json_output import write_json
from gptoss_cli.engine.kernel_checks import KernelCheck, check_gpu
from gptoss_cli.errors import ExitStatus
from gptoss_cli.placement import hardware
from gptoss_cli.placement.devices import choose_gpu
from gptoss_cli.placement.reasons import Reason
from gptoss_cli.placement.request import PlacementRequest
from gptoss_cli.terminal.console import Console

_INTERPRETER = "Triton's interpreter"


def run_gpu_check(console: Console, *, as_json: bool) -> None:
    """Check the kernels of the GPU with the most free memory. Exits 1 if one is wrong, and 0 without a GPU."""
    name, device, reason = _device()
    began = time.perf_counter()
    checks = [] if device is None else _run(device, console)
    seconds = time.perf_counter() - began
    wrong = [check for check in checks if not check.is_right]
    if as_json:
        values = {"gpu": name, "reason": reason, "right": not wrong if checks else None, "seconds": seconds}
        write_json(values | {"checks": [_to_json(check) for check in checks]}, console)
    elif device is None:
        console.out(f"No kernel was checked. {reason}\n")
    elif wrong:
        lines = [f"! wrong: {check.words}" for check in wrong]
        console.out("\n".join([*lines, f"{len(wrong)} of {len(checks)} checks failed on {name}."]) + "\n")
    else:
        console.out(f"right: {len(checks)} checks of the kernels passed on {name}, in {seconds:.0f} s.\n")
    if wrong:
        raise typer.Exit(ExitStatus.FAILED)


def _to_json(check: KernelCheck) -> dict[str, Any]:
    """Return JSON values, which have neither NaN nor infinity."""
    found = check.difference if math.isfinite(check.difference) else None
    return asdict(check) | {"difference": found, "right": check.is_right}


def _device() -> tuple[str, str | None, str]:
    """Return the name of a GPU, its device for torch, and the reason if the kernels run on none."""
    machine = hardware.detect(settings.data_folder())
    gpu = choose_gpu(machine, PlacementRequest())
    if not isinstance(gpu, Reason):
        name = machine.apple_gpu.name if gpu.device == "mps" and machine.apple_gpu else _name(machine, gpu.device)
        return (name, gpu.device, "") if gpu.fallback is None else (name, None, gpu.fallback.text)
    if machine.triton and os.environ.get("TRITON_INTERPRET") == "1":
        return _INTERPRETER, "cpu", ""
    return "", None, gpu.text


def _name(machine: hardware.Hardware, device: str) -> str:
    return machine.gpus[int(device.partition(":")[2])].name


def _run(device: str, console: Console) -> list[KernelCheck]:
    checks = []
    with console.activity() as activity:
        activity.say("Compiling the kernels, and checking them")
        for check in check_gpu(device):
            activity.say(f"Checked: {check.name}")
            checks.append(check)
    return checks
