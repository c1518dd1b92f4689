"""Finding GPUs: what torch and the driver say, on machines of all kinds."""

import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gptoss_cli.placement import gpus as gpus_module
from gptoss_cli.placement.gpus import (
    Cuda,
    FoundGpus,
    Gpu,
    apple_gpu,
    ask_torch,
    cuda_gpus,
    find_gpus,
    parse_smi,
    sharing,
)
from gptoss_cli.placement.hardware import detect

_MEMINFO = "MemTotal:       33554432 kB\nMemAvailable:   16777216 kB\n"
_GIB = 1 << 30


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_gpus_whose_memory_nvidia_smi_does_not_know_are_left_out() -> None:
    text = (
        "NVIDIA GeForce RTX 3060, 12288, 11000, 8.6, 570.86.10, GPU-1\n"
        "NVIDIA H100, slice 1, [N/A], [N/A], 9.0, 570.86.10, GPU-2\n"
        "Tesla M40, 11448, 11448, [N/A], 570.86.10, GPU-3\n"
        "NVIDIA H100 MIG, [N/A], [N/A], 9.0, 570.86.10, GPU-4\nsome warning\n"
    )
    gpus, driver = parse_smi(text)
    assert gpus == (
        Gpu(
            name="NVIDIA GeForce RTX 3060",
            total_bytes=12_288 << 20,
            free_bytes=11_000 << 20,
            capability=(8, 6),
            uuid="GPU-1",
        ),
        Gpu(name="Tesla M40", total_bytes=11_448 << 20, free_bytes=11_448 << 20, uuid="GPU-3"),
    )
    assert driver == "570.86.10"


class _Card:
    """torch.cuda on a machine with two GPUs, or with a driver that it cannot use."""

    def __init__(self, *, problem: str = "", failure: str = "") -> None:
        self._problem, self._failure = problem, failure
        self.asked: list[int] = []

    def is_available(self) -> bool:
        if self._problem:
            warnings.warn(self._problem, stacklevel=1)
        return not self._problem

    def device_count(self) -> int:
        return 2

    def get_device_name(self, device: int) -> str:
        return ("NVIDIA A100", "NVIDIA T4")[device]

    def get_device_capability(self, device: int) -> tuple[int, int]:
        return ((8, 0), (7, 5))[device]

    def get_device_properties(self, device: int) -> SimpleNamespace:
        clock, bus = ((1_215_000, 5_120), (5_001_000, 256))[device]
        return SimpleNamespace(
            total_memory=(40 * _GIB, 16 * _GIB)[device],
            memory_clock_rate=clock,
            memory_bus_width=bus,
            uuid=("a100", "t4")[device],
        )

    def mem_get_info(self, device: int) -> tuple[int, int]:
        self.asked.append(device)
        if self._failure:
            raise RuntimeError(self._failure)
        return ((30 * _GIB, 40 * _GIB), (15 * _GIB, 16 * _GIB))[device]


def test_free_memory_of_each_gpu_comes_from_torch() -> None:
    assert cuda_gpus(_Card()) == (
        Gpu(
            name="NVIDIA A100",
            total_bytes=40 * _GIB,
            free_bytes=30 * _GIB,
            capability=(8, 0),
            bytes_per_second=1_555.2e9,
        ),
        Gpu(
            name="NVIDIA T4",
            total_bytes=16 * _GIB,
            free_bytes=15 * _GIB,
            capability=(7, 5),
            bytes_per_second=320.064e9,
        ),
    )


def test_of_several_gpus_torch_is_not_asked_what_nvidia_smi_knows() -> None:
    listed = (
        Gpu(name="NVIDIA T4", total_bytes=15 * _GIB, free_bytes=9 * _GIB, uuid="GPU-t4"),
        # A slice of it has half the memory: what is free on the whole does not count.
        Gpu(name="NVIDIA A100", total_bytes=80 * _GIB, free_bytes=70 * _GIB, uuid="GPU-a100"),
    )
    card = _Card()
    found = cuda_gpus(card, listed)
    assert [gpu.free_bytes for gpu in found] == [30 * _GIB, 9 * _GIB]
    assert card.asked == [0]


def test_a_warning_of_torch_is_reported_as_the_problem() -> None:
    card = _Card(problem="CUDA initialization: The NVIDIA driver on your system is too old\nPlease update")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gpus, problem = ask_torch(card)
    assert (gpus, problem) == ((), "CUDA initialization: The NVIDIA driver on your system is too old")
    assert ask_torch(_Card(failure="CUDA error: out of memory")) == ((), "CUDA error: out of memory")


class _Metal:
    """torch.mps, where 2 GiB are already in use."""

    def __init__(self, *, available: bool = True) -> None:
        self._available = available

    def is_available(self) -> bool:
        return self._available

    def recommended_max_memory(self) -> int:
        return 12 * _GIB

    def driver_allocated_memory(self) -> int:
        return 2 * _GIB


@pytest.mark.parametrize(("available", "free"), [(None, 10), (11, 10), (7, 7)])
def test_the_free_memory_of_apples_gpu_is_at_most_that_of_the_host(available: int | None, free: int) -> None:
    found = apple_gpu(_Metal(), None if available is None else available * _GIB)
    assert found == Gpu(name="Apple GPU", total_bytes=12 * _GIB, free_bytes=free * _GIB)


def test_an_apple_gpu_that_torch_cannot_use_is_none() -> None:
    assert apple_gpu(_Metal(available=False), 16 * _GIB) is None


def _driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nvidia-smi is found."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'NVIDIA A10, 23028, 22500, 8.6, 570.86.10, GPU-7'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return _write(tmp_path, {"proc/meminfo": _MEMINFO})


@pytest.mark.skipif(sys.platform == "win32", reason="the driver's program is a shell script here")
@pytest.mark.parametrize("hiding", ["", "-1"])
def test_hidden_gpus_are_reported_without_torch(hiding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hiding)
    found = detect(tmp_path, root=_driver(tmp_path, monkeypatch))
    assert (found.cuda, found.driver) == (Cuda.HIDDEN, "570.86.10")
    assert [gpu.name for gpu in found.gpus] == ["NVIDIA A10"]


@pytest.mark.skipif(sys.platform == "win32", reason="the driver's program is a shell script here")
def test_torch_without_cuda_is_reported_if_there_is_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", None)
    found = detect(tmp_path, root=_driver(tmp_path, monkeypatch))
    assert found.cuda is Cuda.NOT_BUILT
    (gpu,) = found.gpus
    assert (gpu.name, gpu.total_bytes, gpu.free_bytes) == ("NVIDIA A10", 23_028 << 20, 22_500 << 20)


def test_nvidia_smi_of_wsl_need_not_be_in_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _driver(tmp_path, monkeypatch)
    (root / "usr/lib/wsl").mkdir(parents=True)
    (root / "bin").rename(root / "usr/lib/wsl/lib")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert detect(tmp_path, root=root).cuda is Cuda.NOT_BUILT
    (root / "usr/lib/wsl/lib/nvidia-smi").rename(root / "usr/lib/wsl/lib/libcuda.so.1")
    assert detect(tmp_path, root=root).cuda is Cuda.NOT_BUILT


class _Radeon(_Card):
    """torch.cuda of a build for ROCm, with one GPU of its own memory or without."""

    def __init__(self, *, integrated: bool = False, total: int = 24) -> None:
        super().__init__()
        self._integrated, self._total = integrated, total

    def device_count(self) -> int:
        return 1

    def get_device_name(self, device: int) -> str:
        return "AMD Radeon"

    def get_device_capability(self, device: int) -> tuple[int, int]:
        return (11, 0)

    def get_device_properties(self, device: int) -> SimpleNamespace:
        name = "gfx1151" if self._integrated else "gfx942:sramecc+:xnack-"
        return SimpleNamespace(
            total_memory=self._total * _GIB,
            gcnArchName=name,
            is_integrated=int(self._integrated),
            memory_clock_rate=1_249_000,
            memory_bus_width=384,
        )

    def mem_get_info(self, device: int) -> tuple[int, int]:
        return (self._total - 1) * _GIB, self._total * _GIB


def _with_rocm(monkeypatch: pytest.MonkeyPatch, card: _Card) -> None:
    fake = SimpleNamespace(version=SimpleNamespace(cuda=None, hip="7.1.25424"), cuda=card)
    monkeypatch.setattr(gpus_module, "version", lambda name: "2.13.0+rocm7.1")
    monkeypatch.setattr(gpus_module, "_import_torch", lambda: fake)


def test_a_torch_for_rocm_finds_amds_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_rocm(monkeypatch, _Radeon())
    found = find_gpus(tmp_path, 64 * _GIB)
    (gpu,) = found.gpus
    assert (found.cuda, found.rocm) == (Cuda.USABLE, "7.1.25424")
    assert (gpu.architecture, gpu.capability, gpu.shares_memory) == ("gfx942", None, False)
    assert gpu.bytes_per_second is None  # its clock has more transfers in a cycle than NVIDIA's


def test_a_torch_for_rocm_without_a_gpu_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_rocm(monkeypatch, _Card(problem="no HIP device"))
    assert find_gpus(tmp_path, 64 * _GIB) == FoundGpus(cuda=Cuda.FAILS, problem="no HIP device", rocm="7.1.25424")


@pytest.mark.parametrize(
    ("total", "memory", "shares"),
    [
        (48, 96, True),
        # The firmware gave most of the memory to the GPU: the system does not have it.
        (96, 32, False),
    ],
)
def test_an_integrated_gpu_shares_memory_that_the_system_has(total: int, memory: int, shares: bool) -> None:
    (gpu,) = cuda_gpus(_Radeon(integrated=True, total=total), (), memory * _GIB)
    assert gpu.shares_memory == shares
    on_rocm, on_cuda = FoundGpus(rocm="7.1"), FoundGpus()
    free = total - 1
    assert sharing(gpu, on_rocm, 20 * _GIB).free_bytes == (20 if shares else free) * _GIB
    assert sharing(gpu, on_rocm, 90 * _GIB).free_bytes == free * _GIB
    # File pages, which NVIDIA's driver does not count as free, are dropped when memory is needed.
    assert sharing(gpu, on_cuda, 90 * _GIB).free_bytes == (total if shares else free) * _GIB
