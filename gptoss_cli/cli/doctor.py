"""`gptoss doctor`: check the hardware and the software that gptoss needs, and advise on each problem."""

import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from gptoss_cli import __version__, settings
from gptoss_cli.checkpoint import catalog, store
from gptoss_cli.cli.damaged_copies import notice_damaged_copies
from gptoss_cli.cli.hints import sentence
from gptoss_cli.cli.json_output import write_json
from gptoss_cli.cli.plan import PlannedModel, published_plans
from gptoss_cli.cli.server import found_server, required_server
from gptoss_cli.cli.server_options import ServerOptions
from gptoss_cli.engine.kernels.native_library import (
    VARIABLE,
    Native,
    check_instructions,
    chosen_instructions,
    find_library,
)
from gptoss_cli.errors import GptossError, UsageError
from gptoss_cli.placement import hardware
from gptoss_cli.placement.gpus import Cuda
from gptoss_cli.placement.hardware import Hardware
from gptoss_cli.placement.reasons import gib
from gptoss_cli.remote.request import ServerRequest
from gptoss_cli.terminal.console import Console

_COMPILER_ADVICE = "Install a C compiler, for example gcc, and then gptoss again."
_DRIVER_ADVICE = "Update the NVIDIA driver, or install the build of torch that goes with it."


@dataclass(frozen=True, slots=True)
class _Check:
    """One checked thing; `advice` says what to do about a problem, and is empty without one."""

    name: str
    found: str
    advice: str = ""


def run_doctor(console: Console, servers: ServerOptions | None = None, *, as_json: bool) -> None:
    """Run `gptoss doctor`. It also looks at the server, if one is set. Raises UsageError for its address."""
    notice_damaged_copies(console)
    machine = hardware.detect(settings.data_folder())
    folders = {name: str(folder) for name, folder in store.installed().items()}
    # The classifiers run like the models that they were made from.
    shown = {model.name for model in catalog.MODELS if not model.is_classifier or model.name in folders}
    checks, models = list(_checks(machine)), [each for each in published_plans(machine) if each.name in shown]
    if servers is not None and servers.server:
        checks.append(_server_check(required_server(servers, ())))
    if as_json:
        write_json(_to_json(machine, checks, models, folders), console)
    else:
        console.out_lines(_written(checks, models, folders).removesuffix("\n"))


def _checks(machine: Hardware) -> Iterator[_Check]:
    """Yield every check in the order in which it is shown."""
    yield _Check("gptoss", f"{__version__}, Python {platform.python_version()}, {platform.system()}")
    advice = "" if machine.torch else "Install it: pip install torch"
    yield _Check("torch", machine.torch or "not installed", advice)
    if machine.cores is not None and machine.usable_cores is not None:
        yield _Check("CPU", _cores(machine.cores, machine.usable_cores, machine.cpu_quota))
    yield _cpu_kernels() if machine.kernels else _Check("CPU kernels", "missing", _COMPILER_ADVICE)
    yield from _gpu_checks(machine)
    yield from _memory_checks(machine)
    disk = "unknown" if machine.disk_bytes is None else f"{machine.disk_bytes / 1e9:.1f} GB free"
    yield _Check("disk", f"{disk} for {settings.data_folder()}")
    for name, folder in (("settings", settings.config_folder()), ("cache", settings.cache_folder())):
        yield _Check(name, str(folder))


def _server_check(request: ServerRequest) -> _Check:
    try:
        server = found_server(request)
    except GptossError as exc:
        return _Check("server", request.url, sentence(exc))
    return _Check("server", f"{server.summary} serves {server.model}, {server.context_tokens:,} tokens of context")


def _cores(cores: int, usable: int, quota: float | None) -> str:
    if usable >= cores:
        return f"{cores} core{'' if cores == 1 else 's'}"
    limit = "this process may run on no others"
    if quota is not None and usable == max(1, int(quota)):
        limit = f"the CPU quota of the control group is {quota:g}"
    return f"{usable} of {cores} cores, and no more threads: {limit}"


def _cpu_kernels() -> _Check:
    """Load the kernels for the CPU as a model would, which checks them too."""
    name, path = "CPU kernels", find_library()
    if path is None:
        return _Check(name, "built for another Python", "Install gptoss again.")
    try:
        native = Native(path)
        problem = check_instructions(native)
    except OSError as exc:
        return _Check(name, f"cannot be loaded: {exc}", "Install gptoss again.")
    except UsageError as exc:
        return _Check(name, "not usable", sentence(exc))
    chosen = f" (chosen by {VARIABLE})" if chosen_instructions() else ""
    return _Check(name, f"{native.instructions}{chosen}", f"{problem}." if problem else "")


def _gpu_checks(machine: Hardware) -> Iterator[_Check]:
    for number, gpu in enumerate(machine.gpus):
        capability = "" if gpu.capability is None else f", compute capability {gpu.capability[0]}.{gpu.capability[1]}"
        kind = f", {gpu.architecture}" if gpu.architecture else capability
        shared = ", shared with the host" if gpu.shares_memory else ""
        found = f"{gpu.name}, {gib(gpu.free_bytes)} of {gib(gpu.total_bytes)} free{shared}{kind}"
        yield _Check(f"GPU {number}", found)
    if (apple := machine.apple_gpu) is not None:
        yield _Check("GPU", f"{apple.name}, {gib(apple.free_bytes)} of {gib(apple.total_bytes)} available")
    if machine.cuda is Cuda.ABSENT:
        if machine.apple_gpu is None:
            yield _Check("GPU", "there is no NVIDIA GPU")
        return
    advice = {
        Cuda.HIDDEN: "Unset CUDA_VISIBLE_DEVICES.",
        Cuda.NOT_BUILT: "Install a build of torch with CUDA; torch's installation page gives the command.",
        Cuda.FAILS: _DRIVER_ADVICE,
    }
    found = f"{machine.cuda}{', driver ' + machine.driver if machine.driver else ''}"
    problem = f": {machine.cuda_problem}" if machine.cuda_problem else ""
    if machine.rocm is None:
        yield _Check("CUDA", f"{found}{problem}", advice.get(machine.cuda, ""))
    else:
        failing = "Update AMD's driver, or install the build of torch that goes with it."
        yield _Check("ROCm", f"{machine.rocm}, untested, {found}{problem}", failing if problem else "")
    yield _present("Triton", machine.triton, "Install it: pip install triton")
    advice_text = "Install gcc and Python's development files; Triton builds its kernels with them."
    yield _present("C compiler and Python headers", machine.compiler, advice_text)


def _memory_checks(machine: Hardware) -> Iterator[_Check]:
    if machine.available_bytes is None or machine.memory_bytes is None:
        yield _Check("memory", "unknown", "Give --context if a long one does not fit.")
    else:
        yield _Check("memory", f"{gib(machine.available_bytes)} of {gib(machine.memory_bytes)} available")
    if machine.group_limit_bytes is not None:
        yield _Check("control group", f"memory is limited to {gib(machine.group_limit_bytes)}")


def _present(name: str, present: bool, advice: str) -> _Check:
    return _Check(name, "present", "") if present else _Check(name, "missing", advice)


def _to_json(
    machine: Hardware, checks: list[_Check], models: list[PlannedModel], folders: dict[str, str]
) -> dict[str, Any]:
    return {
        "machine": asdict(machine),
        "checks": [asdict(check) for check in checks],
        "models": [{"name": model.name, "folder": folders.get(model.name), **model.to_json()} for model in models],
    }


def _written(checks: list[_Check], models: list[PlannedModel], folders: dict[str, str]) -> str:
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
