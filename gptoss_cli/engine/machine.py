"""Describes the machine: its GPUs, its memory within the control group, what Triton needs. Changes nothing on it.

torch is imported only where an NVIDIA driver or an Apple chip was found: others are described in milliseconds.
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
from typing import Protocol

_log = logging.getLogger(__name__)
_SMI_FIELDS = "name,memory.total,memory.free,compute_cap,driver_version"
_SMI_SECONDS = 20
# A control group's limit above this is the kernel's way of writing none.
_NO_LIMIT = 1 << 60


class Cuda(StrEnum):
    """Whether torch can compute on the NVIDIA GPUs that are there."""

    ABSENT = "no NVIDIA driver"
    USABLE = "usable"
    HIDDEN = "hidden"  # by CUDA_VISIBLE_DEVICES
    NOT_BUILT = "torch without CUDA"
    FAILS = "driver does not work with torch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, or one MIG slice of one; `capability` is CUDA's compute capability, (9, 0) for a Hopper."""

    name: str
    total_bytes: int
    free_bytes: int
    capability: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a placement depends on. None stands for what is not known, and for no limit.

    `gpus` are in CUDA's order, or in the driver's where torch cannot use them. `available_bytes` is what programs can
    still get without swapping, within the control group. `apple_gpu` shares that memory. `kernels` are the CPU's, built
    when gptoss was installed.
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
    memory_bytes: int | None = None
    available_bytes: int | None = None
    group_limit_bytes: int | None = None
    lockable_bytes: int | None = None
    disk_bytes: int | None = None


class MpsApi(Protocol):
    """What is used of torch.mps."""

    def is_available(self) -> bool: ...
    def recommended_max_memory(self) -> int: ...
    def driver_allocated_memory(self) -> int: ...


class CudaApi(Protocol):
    """What is used of torch.cuda."""

    def is_available(self) -> bool: ...
    def device_count(self) -> int: ...
    def get_device_name(self, device: int) -> str: ...
    def get_device_capability(self, device: int) -> tuple[int, int]: ...
    def mem_get_info(self, device: int) -> tuple[int, int]: ...


def detect(data_folder: Path, *, root: Path = Path("/")) -> Machine:
    """Ask this machine. `data_folder` is where checkpoints go; `root` is where /proc and /sys lie."""
    total, available, limit = host_memory(root)
    gpus, cuda, problem, driver = _find_gpus(root)
    return Machine(
        gpus=gpus,
        apple_gpu=_find_apple_gpu(available),
        cuda=cuda,
        cuda_problem=problem,
        driver=driver,
        torch=_version("torch"),
        kernels=any((Path(__file__).parent / "kernels").glob("_native.*")),
        triton=importlib.util.find_spec("triton") is not None,
        compiler=_has_compiler(),
        memory_bytes=total,
        available_bytes=available,
        group_limit_bytes=limit,
        lockable_bytes=_lockable_bytes(root),
        disk_bytes=_free_disk_bytes(data_folder),
    )


def host_memory(root: Path) -> tuple[int | None, int | None, int | None]:
    """Total and available bytes, and the control group's limit where that is below the total."""
    total, available = _memory_bytes(root)
    limit, used = _group_memory(root)
    if limit is None or (total is not None and limit >= total):
        return total, available, None
    room = max(0, limit - used)
    return total, room if available is None else min(room, available), limit


def cuda_gpus(cuda: CudaApi) -> tuple[Gpu, ...]:
    """The GPUs that torch sees, with what is free on each now."""
    gpus = []
    for device in range(cuda.device_count()):
        free, total = cuda.mem_get_info(device)
        name, capability = cuda.get_device_name(device), cuda.get_device_capability(device)
        gpus.append(Gpu(name=name, total_bytes=total, free_bytes=free, capability=capability))
    return tuple(gpus)


def apple_gpu(mps: MpsApi, available_bytes: int | None) -> Gpu | None:
    """Apple's GPU if torch can use it, with what the system lets it have, and what the memory has of that now."""
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
        from torch import mps
    except (ImportError, OSError) as exc:
        _log.info("torch cannot be imported: %s", exc)
        return None
    return apple_gpu(mps, available_bytes)


def parse_smi(text: str) -> tuple[tuple[Gpu, ...], str | None]:
    """What nvidia-smi prints for _SMI_FIELDS as CSV in MiB: GPUs whose memory it tells, and the driver's version."""
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
    """GPUs, what torch can do with them, torch's own words where it can nothing, and the driver's version."""
    smi = shutil.which("nvidia-smi")
    if smi is None and not (root / "proc/driver/nvidia/version").exists():
        return (), Cuda.ABSENT, "", None
    listed, driver = parse_smi(_run_smi(smi)) if smi else ((), None)
    if os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1"):
        return listed, Cuda.HIDDEN, "", driver
    try:
        import torch
    except (ImportError, OSError) as exc:
        return listed, Cuda.FAILS, f"torch cannot be imported: {exc}", driver
    if torch.version.cuda is None:
        return listed, Cuda.NOT_BUILT, "", driver
    gpus, problem = _ask_torch(torch.cuda)
    if gpus:
        return gpus, Cuda.USABLE, "", driver
    return (listed, Cuda.FAILS, problem, driver) if listed or problem else ((), Cuda.ABSENT, "", driver)


def _ask_torch(cuda: CudaApi) -> tuple[tuple[Gpu, ...], str]:
    """The GPUs that torch can use, or why it can use none: it only warns of a driver that is too old."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if cuda.is_available():
                return cuda_gpus(cuda), ""
        except RuntimeError as exc:
            return (), str(exc).splitlines()[0]
    said = [str(warning.message).splitlines()[0] for warning in caught]
    return (), said[-1] if said else ""


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
    """Whether Triton can build its launcher: a C compiler and Python's own headers (its runtime/build.py)."""
    named = os.environ.get("CC")
    found = any(shutil.which(name) for name in ([named] if named else ["cc", "gcc", "clang", "cl"]))
    return found and Path(sysconfig.get_paths()["include"], "Python.h").is_file()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _memory_bytes(root: Path) -> tuple[int | None, int | None]:
    """Total and available bytes of the whole machine."""
    values = {}
    for line in _lines(root / "proc/meminfo"):
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[0].isdecimal():
            values[name] = int(words[0]) << 10
    total = values.get("MemTotal")
    if total is None and hasattr(os, "sysconf"):
        # macOS tells the total only; a fifth of it is taken for what the system itself needs.
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total * 4 // 5
    return total, values.get("MemAvailable")


def _group_memory(root: Path) -> tuple[int | None, int]:
    """The tightest memory limit of the process's control groups, and what is used of it and cannot be dropped."""
    tightest: int | None = None
    used = 0
    for folder in _group_folders(root):
        limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        if limit is None or limit >= _NO_LIMIT or (tightest is not None and limit >= tightest):
            continue
        current = _number(folder / "memory.current", folder / "memory.usage_in_bytes") or 0
        tightest, used = limit, max(0, current - _droppable_bytes(folder))
    return tightest, used


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may keep busy: its affinity, within the quotas of its control groups."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _group_folders(root, "cpu"):
        quota, period = [*" ".join(_lines(folder / "cpu.max")).split(), "max", ""][:2]
        if quota == "max":
            quota = "".join(_lines(folder / "cpu.cfs_quota_us"))
            period = "".join(_lines(folder / "cpu.cfs_period_us"))
        if quota.isdecimal() and period.isdecimal() and int(period):
            cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def _group_folders(root: Path, controller: str = "memory") -> Iterator[Path]:
    """The folders of the process's group and of those around it, for version 2 and version 1 (cgroups(7)).

    Inside a container the path may be the host's, of which only the top is mounted: then the top alone is there.
    """
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" or controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / ("" if number == "0" else controller)
            parts = [part for part in path.split("/") if part not in ("", "..")]
            for depth in range(len(parts), -1, -1):
                yield top.joinpath(*parts[:depth])


def _droppable_bytes(folder: Path) -> int:
    """Cached file pages, which the kernel drops before it ends a program: mapped weights are among them."""
    for line in _lines(folder / "memory.stat"):
        name, _, value = line.partition(" ")
        if name in ("file", "total_cache") and value.isdecimal():
            return int(value)
    return 0


def _lockable_bytes(root: Path) -> int | None:
    """How much memory the process may lock (RLIMIT_MEMLOCK); None is no limit."""
    for line in _lines(root / "proc/self/limits"):
        if line.startswith("Max locked memory"):
            soft = line.split()[3]
            return int(soft) if soft.isdecimal() else None
    return None


def _free_disk_bytes(folder: Path) -> int | None:
    existing = next((place for place in (folder, *folder.parents) if place.is_dir()), None)
    try:
        return None if existing is None else shutil.disk_usage(existing).free
    except OSError:
        return None


def _number(*files: Path) -> int | None:
    """The number in the first of `files` that holds one."""
    for file in files:
        text = "".join(_lines(file)).strip()
        if text.isdecimal():
            return int(text)
    return None


def _lines(file: Path) -> list[str]:
    """A small text file's lines; none if it cannot be read."""
    try:
        return file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
