"""The GPUs of this machine, asked of torch and of the driver.

torch is imported only if there is an NVIDIA driver or an Apple chip, or if it is a build for AMD: otherwise detection
takes milliseconds.
"""

import csv
import logging
import os
import platform
import shutil
import subprocess
import warnings
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

_log = logging.getLogger(__name__)
_SMI_FIELDS = "name,memory.total,memory.free,compute_cap,driver_version,uuid"
# Windows' driver puts its libraries and nvidia-smi there within WSL2, which need not be in PATH.
_WSL_FOLDER = "usr/lib/wsl/lib"
# A GPU of which a program sees only a slice has less memory than nvidia-smi lists.
_SAME_MEMORY = 0.9
_SMI_SECONDS = 20


class Cuda(StrEnum):
    """The state of CUDA: usable by torch, or the reason for which it is not."""

    ABSENT = "no NVIDIA driver"
    USABLE = "usable"
    HIDDEN = "hidden"  # by CUDA_VISIBLE_DEVICES
    NOT_BUILT = "torch without CUDA"
    FAILS = "driver does not work with torch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU, or a MIG slice of one. `capability` is the CUDA compute capability, (9, 0) for Hopper; None for AMD's.

    `architecture` is AMD's name of it, such as gfx942. `bytes_per_second` is the bandwidth of its memory, None if it is
    unknown. `shares_memory` is true if its memory is a part of the host's. `uuid` is the driver's.
    """

    name: str
    total_bytes: int
    free_bytes: int
    capability: tuple[int, int] | None = None
    architecture: str = ""
    bytes_per_second: float | None = None
    shares_memory: bool = False
    uuid: str = ""


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
    def get_device_properties(self, device: int) -> Any: ...
    def mem_get_info(self, device: int) -> tuple[int, int]: ...


def cuda_gpus(cuda: CudaApi, listed: tuple[Gpu, ...] = (), memory_bytes: int | None = None) -> tuple[Gpu, ...]:
    """Return the GPUs that torch sees, with the memory that is free on each now.

    Asking torch for that takes hundreds of MiB of a GPU. Of several GPUs all but one will not be used, so what
    nvidia-smi has `listed` counts for them.
    """
    by_uuid = {gpu.uuid: gpu for gpu in listed} if cuda.device_count() > 1 else {}
    gpus = []
    for device in range(cuda.device_count()):
        properties = cuda.get_device_properties(device)
        total: int = properties.total_memory
        known = by_uuid.get(f"GPU-{getattr(properties, 'uuid', '')}")
        if known is not None and known.total_bytes * _SAME_MEMORY <= total:
            free = min(total, known.free_bytes)
        else:
            free, total = cuda.mem_get_info(device)
        architecture = str(getattr(properties, "gcnArchName", "")).partition(":")[0]
        is_amd = architecture.startswith("gfx")
        gpus.append(
            Gpu(
                name=cuda.get_device_name(device),
                total_bytes=total,
                free_bytes=free,
                capability=None if is_amd else cuda.get_device_capability(device),
                architecture=architecture if is_amd else "",
                bytes_per_second=None if is_amd else _bandwidth(properties),
                # The firmware can set memory aside for an integrated GPU. The system does not count that.
                shares_memory=bool(getattr(properties, "is_integrated", 0))
                and memory_bytes is not None
                and total <= memory_bytes,
            )
        )
    return tuple(gpus)


def _bandwidth(properties: Any) -> float | None:
    """Return the bandwidth of a GPU's memory: two transfers in each cycle of its clock, on every line of its bus.

    AMD's driver reports slower clocks, with 4 to 16 transfers in each cycle.
    """
    kilohertz, bits = (getattr(properties, name, 0) for name in ("memory_clock_rate", "memory_bus_width"))
    return 2 * kilohertz * 1000 * bits / 8 if kilohertz > 0 and bits > 0 else None


def apple_gpu(mps: MpsApi, available_bytes: int | None) -> Gpu | None:
    """Return Apple's GPU if torch can use it: the memory that the system lets it have, and what is free of that now."""
    if not mps.is_available():
        return None
    total = mps.recommended_max_memory()
    left = total - mps.driver_allocated_memory()
    free = left if available_bytes is None else min(left, available_bytes)
    return Gpu(name="Apple GPU", total_bytes=total, free_bytes=max(0, free))


def find_apple_gpu(available_bytes: int | None) -> Gpu | None:
    """Return Apple's GPU if this is an Apple chip and torch can use it."""
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
        name, total, free, capability, driver, uuid = row
        if total.isdecimal() and free.isdecimal():
            gpus.append(
                Gpu(
                    name=name,
                    total_bytes=int(total) << 20,
                    free_bytes=int(free) << 20,
                    capability=_capability(capability),
                    uuid=uuid,
                )
            )
    return tuple(gpus), driver


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundGpus:
    """The GPUs for torch's "cuda", its state, torch's message if it cannot use them, and versions."""

    gpus: tuple[Gpu, ...] = ()
    cuda: Cuda = Cuda.ABSENT
    problem: str = ""
    driver: str | None = None
    rocm: str | None = None


def sharing(gpu: Gpu, found: FoundGpus, available_bytes: int | None) -> Gpu:
    """Return `gpu` with the free memory that the host can give it, if it has none of its own.

    NVIDIA's driver does not count file pages as free, which the system drops when memory is needed.
    """
    if not gpu.shares_memory or available_bytes is None:
        return gpu
    most = gpu.free_bytes if found.rocm is not None else gpu.total_bytes
    return replace(gpu, free_bytes=min(most, available_bytes))


def find_gpus(root: Path, memory_bytes: int | None) -> FoundGpus:
    """Find the GPUs of NVIDIA or AMD. `root` is the parent of proc, `memory_bytes` the host's memory."""
    if "rocm" in (version("torch") or ""):
        return _find_amd_gpus(root, memory_bytes)
    smi = shutil.which("nvidia-smi") or _existing(root / _WSL_FOLDER / "nvidia-smi")
    drivers = root / "proc/driver/nvidia/version", root / _WSL_FOLDER / "libcuda.so.1"
    if smi is None and not any(driver.exists() for driver in drivers):
        return FoundGpus()
    listed, driver = parse_smi(_run_smi(smi)) if smi else ((), None)
    if os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1"):
        return FoundGpus(gpus=listed, cuda=Cuda.HIDDEN, driver=driver)
    try:
        torch = _import_torch()
    except (ImportError, OSError) as exc:
        return FoundGpus(gpus=listed, cuda=Cuda.FAILS, problem=f"torch cannot be imported: {exc}", driver=driver)
    if torch.version.cuda is None:
        return FoundGpus(gpus=listed, cuda=Cuda.NOT_BUILT, driver=driver)
    gpus, problem = ask_torch(torch.cuda, listed, memory_bytes)
    if gpus:
        return FoundGpus(gpus=gpus, cuda=Cuda.USABLE, driver=driver)
    if listed or problem:
        return FoundGpus(gpus=listed, cuda=Cuda.FAILS, problem=problem, driver=driver)
    return FoundGpus(driver=driver)


def _existing(program: Path) -> str | None:
    return str(program) if program.exists() else None


def _find_amd_gpus(root: Path, memory_bytes: int | None) -> FoundGpus:
    """Ask a torch that was built for ROCm, which calls AMD's GPUs "cuda"."""
    try:
        torch = _import_torch()
    except (ImportError, OSError) as exc:
        return FoundGpus(cuda=Cuda.FAILS, problem=f"torch cannot be imported: {exc}", rocm="unknown")
    rocm = str(torch.version.hip)
    gpus, problem = ask_torch(torch.cuda, (), memory_bytes)
    if gpus:
        return FoundGpus(gpus=gpus, cuda=Cuda.USABLE, rocm=rocm)
    if problem or (root / "dev/kfd").exists():
        return FoundGpus(cuda=Cuda.FAILS, problem=problem or "it finds no GPU", rocm=rocm)
    return FoundGpus(rocm=rocm)


def ask_torch(
    cuda: CudaApi, listed: tuple[Gpu, ...] = (), memory_bytes: int | None = None
) -> tuple[tuple[Gpu, ...], str]:
    """Return the GPUs that torch can use, or the reason for none. For an old driver that is only a warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if cuda.is_available():
                return cuda_gpus(cuda, listed, memory_bytes), ""
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


def version(distribution: str) -> str | None:
    """Return the version of an installed distribution."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
