"""The hardware of this machine: GPUs, memory within the control group, and what Triton needs. Changes nothing.

torch is imported only if there is an NVIDIA driver or an Apple chip: otherwise detection takes milliseconds.
"""

import csv
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Protocol

_log = logging.getLogger(__name__)
_KERNELS_FOLDER = Path(__file__).parents[1] / "engine" / "kernels"
_SMI_FIELDS = "name,memory.total,memory.free,compute_cap,driver_version"
_SMI_SECONDS = 20
# The kernel reports a control group without a limit as a number above this.
_NO_LIMIT = 1 << 60


class Cuda(StrEnum):
    """The state of CUDA: usable by torch, or the reason for which it is not."""

    ABSENT = "no NVIDIA driver"
    USABLE = "usable"
    HIDDEN = "hidden"  # by CUDA_VISIBLE_DEVICES
    NOT_BUILT = "torch without CUDA"
    FAILS = "driver does not work with torch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU, or a MIG slice of one. `capability` is the CUDA compute capability, (9, 0) for Hopper."""

    name: str
    total_bytes: int
    free_bytes: int
    capability: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Everything that a placement depends on. None means unknown, or no limit.

    `gpus` are in the order of CUDA, or in that of the driver if torch cannot use them. `available_bytes` is the memory
    that can be allocated without swapping, within the control group; `apple_gpu` shares it. `kernels` is true if the
    native kernels for the CPU were built when gptoss was installed. `usable_cores` are those of the `cores` that this
    process may keep busy, within `cpu_quota`. `reserved_bytes` is what the operating system is assumed to use of the
    memory of a machine that was only described.
    """

    gpus: tuple[Gpu, ...] = ()
    apple_gpu: Gpu | None = None
    cuda: Cuda = Cuda.ABSENT
    cuda_problem: str = ""
    driver: str | None = None
    torch: str | None = None
    kernels: bool = False
    triton: bool = False
    compiler: bool = False
    cores: int | None = None
    usable_cores: int | None = None
    cpu_quota: float | None = None
    memory_bytes: int | None = None
    available_bytes: int | None = None
    reserved_bytes: int = 0
    group_limit_bytes: int | None = None
    lockable_bytes: int | None = None
    disk_bytes: int | None = None


class MpsApi(Protocol):
    """The functions of torch.mps that are used here."""

    def is_available(self) -> bool: ...
    def recommended_max_memory(self) -> int: ...
    def driver_allocated_memory(self) -> int: ...


class CudaApi(Protocol):
    """The functions of torch.cuda that are used here."""

    def is_available(self) -> bool: ...
    def device_count(self) -> int: ...
    def get_device_name(self, device: int) -> str: ...
    def get_device_capability(self, device: int) -> tuple[int, int]: ...
    def mem_get_info(self, device: int) -> tuple[int, int]: ...


def detect(data_folder: Path, *, root: Path = Path("/")) -> Hardware:
    """Return the hardware of this machine. `disk_bytes` is for `data_folder`; `root` is the parent of proc and sys."""
    total, available, limit = host_memory(root)
    gpus, cuda, problem, driver = _find_gpus(root)
    return Hardware(
        gpus=gpus,
        apple_gpu=_find_apple_gpu(available),
        cuda=cuda,
        cuda_problem=problem,
        driver=driver,
        torch=_version("torch"),
        kernels=any(_KERNELS_FOLDER.glob("_native.*")),
        triton=importlib.util.find_spec("triton") is not None,
        compiler=_has_compiler(),
        cores=os.cpu_count(),
        usable_cores=usable_cores(root),
        cpu_quota=cpu_quota(root),
        memory_bytes=total,
        available_bytes=available,
        group_limit_bytes=limit,
        lockable_bytes=_lockable_bytes(root),
        disk_bytes=_free_disk_bytes(data_folder),
    )


def host_memory(root: Path) -> tuple[int | None, int | None, int | None]:
    """Return total and available bytes, and the limit of the control group if that is below the total."""
    total, available = _memory_bytes(root)
    limit, used = _group_memory(root)
    if limit is None or (total is not None and limit >= total):
        return total, available, None
    room = max(0, limit - used)
    return total, room if available is None else min(room, available), limit


def cuda_gpus(cuda: CudaApi) -> tuple[Gpu, ...]:
    """Return the GPUs that torch sees, with the memory that is free on each now."""
    gpus = []
    for device in range(cuda.device_count()):
        free, total = cuda.mem_get_info(device)
        name, capability = cuda.get_device_name(device), cuda.get_device_capability(device)
        gpus.append(Gpu(name=name, total_bytes=total, free_bytes=free, capability=capability))
    return tuple(gpus)


def apple_gpu(mps: MpsApi, available_bytes: int | None) -> Gpu | None:
    """Return Apple's GPU if torch can use it: the memory that the system lets it have, and what is free of that now."""
    if not mps.is_available():
        return None
    total = mps.recommended_max_memory()
    left = total - mps.driver_allocated_memory()
    free = left if available_bytes is None else min(left, available_bytes)
    return Gpu(name="Apple GPU", total_bytes=total, free_bytes=max(0, free))


def _find_apple_gpu(available_bytes: int | None) -> Gpu | None:
    if (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        return None
    try:
        torch = _import_torch()
    except (ImportError, OSError) as exc:
        _log.info("torch cannot be imported: %s", exc)
        return None
    return apple_gpu(torch.mps, available_bytes)


def _import_torch() -> ModuleType:
    """Import torch, which takes a second. Raises ImportError or OSError."""
    import torch  # not at the top: most machines without a GPU are described without it

    return torch


def parse_smi(text: str) -> tuple[tuple[Gpu, ...], str | None]:
    """Parse nvidia-smi's CSV of _SMI_FIELDS: the GPUs whose memory it knows, in MiB, and the version of the driver."""
    gpus, driver = [], None
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) != _SMI_FIELDS.count(",") + 1:
            continue
        name, total, free, capability, driver = row
        if total.isdecimal() and free.isdecimal():
            gpus.append(
                Gpu(
                    name=name,
                    total_bytes=int(total) << 20,
                    free_bytes=int(free) << 20,
                    capability=_capability(capability),
                )
            )
    return tuple(gpus), driver


def _find_gpus(root: Path) -> tuple[tuple[Gpu, ...], Cuda, str, str | None]:
    """Return the GPUs, the state of CUDA, torch's message if it cannot use them, and the version of the driver."""
    smi = shutil.which("nvidia-smi")
    if smi is None and not (root / "proc/driver/nvidia/version").exists():
        return (), Cuda.ABSENT, "", None
    listed, driver = parse_smi(_run_smi(smi)) if smi else ((), None)
    if os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1"):
        return listed, Cuda.HIDDEN, "", driver
    try:
        torch = _import_torch()
    except (ImportError, OSError) as exc:
        return listed, Cuda.FAILS, f"torch cannot be imported: {exc}", driver
    if torch.version.cuda is None:
        return listed, Cuda.NOT_BUILT, "", driver
    gpus, problem = _ask_torch(torch.cuda)
    if gpus:
        return gpus, Cuda.USABLE, "", driver
    return (listed, Cuda.FAILS, problem, driver) if listed or problem else ((), Cuda.ABSENT, "", driver)


def _ask_torch(cuda: CudaApi) -> tuple[tuple[Gpu, ...], str]:
    """Return the GPUs that torch can use, or the reason for none. For an old driver that is only a warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if cuda.is_available():
                return cuda_gpus(cuda), ""
        except RuntimeError as exc:
            return (), str(exc).splitlines()[0]
    messages = [str(warning.message).splitlines()[0] for warning in caught]
    return (), messages[-1] if messages else ""


def _run_smi(program: str) -> str:
    query = [program, f"--query-gpu={_SMI_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, timeout=_SMI_SECONDS, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError) as exc:
        _log.info("nvidia-smi: %s", exc)
        return ""
    return done.stdout


def _capability(text: str) -> tuple[int, int] | None:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def _has_compiler() -> bool:
    """Return True if Triton can build its launcher, with a C compiler and Python's headers (its runtime/build.py)."""
    chosen = os.environ.get("CC")
    found = any(shutil.which(name) for name in ([chosen] if chosen else ["cc", "gcc", "clang", "cl"]))
    return found and Path(sysconfig.get_paths()["include"], "Python.h").is_file()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _memory_bytes(root: Path) -> tuple[int | None, int | None]:
    """Return total and available bytes of the whole machine."""
    values = {}
    for line in _lines(root / "proc/meminfo"):
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[0].isdecimal():
            values[name] = int(words[0]) << 10
    total = values.get("MemTotal")
    if total is None and hasattr(os, "sysconf"):
        # macOS reports the total only. A fifth of it is left to the system.
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total * 4 // 5
    return total, values.get("MemAvailable")


def _group_memory(root: Path) -> tuple[int | None, int]:
    """Return the lowest memory limit of the process's control groups, and the used bytes that cannot be dropped."""
    lowest: int | None = None
    used = 0
    for folder in _group_folders(root):
        limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        if limit is None or limit >= _NO_LIMIT or (lowest is not None and limit >= lowest):
            continue
        current = _number(folder / "memory.current", folder / "memory.usage_in_bytes") or 0
        lowest, used = limit, max(0, current - _file_cache_bytes(folder))
    return lowest, used


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may keep busy: its affinity, within the quotas of its control groups."""
    quota = cpu_quota(root)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores if quota is None else min(cores, int(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the cores whose time the control groups allow this process, such as 1.5; None for no limit."""
    quotas = []
    for folder in _group_folders(root, "cpu"):
        quota, period = [*" ".join(_lines(folder / "cpu.max")).split(), "max", ""][:2]
        if quota == "max":
            quota = "".join(_lines(folder / "cpu.cfs_quota_us"))
            period = "".join(_lines(folder / "cpu.cfs_period_us"))
        if quota.isdecimal() and period.isdecimal() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _group_folders(root: Path, controller: str = "memory") -> Iterator[Path]:
    """Yield the folders of the process's control group and its parents, for versions 2 and 1 (cgroups(7)).

    In a container the path may be that of the host, of which only the top is mounted: then only the top exists.
    """
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" or controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / ("" if number == "0" else controller)
            parts = [part for part in path.split("/") if part not in ("", "..")]
            for depth in range(len(parts), -1, -1):
                yield top.joinpath(*parts[:depth])


def _file_cache_bytes(folder: Path) -> int:
    """Return the size of cached file pages, mapped weights included. The kernel drops these when memory is short."""
    for line in _lines(folder / "memory.stat"):
        name, _, value = line.partition(" ")
        if name in ("file", "total_cache") and value.isdecimal():
            return int(value)
    return 0


def _lockable_bytes(root: Path) -> int | None:
    """Return the memory that the process may lock (RLIMIT_MEMLOCK), None if there is no limit."""
    for line in _lines(root / "proc/self/limits"):
        if line.startswith("Max locked memory"):
            soft = line.split()[3]
            return int(soft) if soft.isdecimal() else None
    return None


def _free_disk_bytes(folder: Path) -> int | None:
    existing = next((path for path in (folder, *folder.parents) if path.is_dir()), None)
    try:
        return None if existing is None else shutil.disk_usage(existing).free
    except OSError:
        return None


def _number(*files: Path) -> int | None:
    """Return the number in the first of `files` that holds one."""
    for file in files:
        text = "".join(_lines(file)).strip()
        if text.isdecimal():
            return int(text)
    return None


def _lines(file: Path) -> list[str]:
    """Return the lines of a small text file, none if it cannot be read."""
    try:
        return file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
