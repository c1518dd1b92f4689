"""The hardware of this machine: GPUs, memory within the control group, and what Triton needs. Changes nothing.

The GPUs are found in gpus.py.
"""

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gptoss_cli.placement.gpus import Cuda, Gpu, find_apple_gpu, find_gpus, sharing, version

_KERNELS_FOLDER = Path(__file__).parents[1] / "engine" / "kernels"
# The kernel reports a control group without a limit as a number above this.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Everything that a placement depends on. None means unknown, or no limit.

    `gpus` are in the order of CUDA, or in that of the driver if torch cannot use them. `available_bytes` is the memory
    that can be allocated without swapping, within the control group; `apple_gpu` shares it. `kernels` is true if the
    native kernels for the CPU were built when gptoss was installed. `usable_cores` are those of the `cores` that this
    process may keep busy, within `cpu_quota`. `reserved_bytes` is what the operating system is assumed to use of the
    memory of a machine that was only described. `rocm` is the version of ROCm that torch was built for: AMD's GPUs are
    then those of "cuda".
    """

    gpus: tuple[Gpu, ...] = ()
    apple_gpu: Gpu | None = None
    cuda: Cuda = Cuda.ABSENT
    cuda_problem: str = ""
    driver: str | None = None
    rocm: str | None = None
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
    disk_bytes: int | None = None


def detect(data_folder: Path, *, root: Path = Path("/")) -> Hardware:
    """Return the hardware of this machine. `disk_bytes` is for `data_folder`; `root` is the parent of proc and sys."""
    total, available, limit = host_memory(root)
    found = find_gpus(root, total)
    return Hardware(
        gpus=tuple(sharing(gpu, found, available) for gpu in found.gpus),
        apple_gpu=find_apple_gpu(available),
        cuda=found.cuda,
        cuda_problem=found.problem,
        driver=found.driver,
        rocm=found.rocm,
        torch=version("torch"),
        kernels=any(_KERNELS_FOLDER.glob("_native.*")),
        triton=importlib.util.find_spec("triton") is not None,
        compiler=_has_compiler(),
        cores=os.cpu_count(),
        usable_cores=usable_cores(root),
        cpu_quota=cpu_quota(root),
        memory_bytes=total,
        available_bytes=available,
        group_limit_bytes=limit,
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


def _has_compiler() -> bool:
    """Return True if Triton can build its launcher, with a C compiler and Python's headers (its runtime/build.py).

    The package triton-windows brings both.
    """
    if version("triton-windows") is not None:
        return True
    chosen = os.environ.get("CC")
    found = any(shutil.which(name) for name in ([chosen] if chosen else ["cc", "gcc", "clang", "cl"]))
    return found and Path(sysconfig.get_paths()["include"], "Python.h").is_file()


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
