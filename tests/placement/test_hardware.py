"""Detecting hardware from files and programs."""

import sys
import warnings
from pathlib import Path

import pytest
import torch

import gptoss_cli
from gptoss_cli.placement import hardware
from gptoss_cli.placement.hardware import (
    Cuda,
    Gpu,
    apple_gpu,
    cpu_quota,
    cuda_gpus,
    detect,
    host_memory,
    parse_smi,
    usable_cores,
)

_MEMINFO = "MemTotal:       33554432 kB\nMemFree:  1048576 kB\nMemAvailable:   16777216 kB\nHugePages_Total: 0\n"
_GIB = 1 << 30


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_without_a_control_group_memory_is_that_of_the_machine(tmp_path: Path) -> None:
    root = _write(tmp_path, {"proc/meminfo": _MEMINFO, "proc/self/cgroup": "0::/\n"})
    assert host_memory(root) == (32 * _GIB, 16 * _GIB, None)


def test_the_lowest_limit_counts_and_cached_files_are_available(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        {
            "proc/meminfo": _MEMINFO,
            "proc/self/cgroup": "0::/user/session\n",
            "sys/fs/cgroup/user/memory.max": f"{8 * _GIB}\n",
            "sys/fs/cgroup/user/memory.current": f"{5 * _GIB}\n",
            "sys/fs/cgroup/user/memory.stat": f"anon {2 * _GIB}\nfile {3 * _GIB}\n",
            "sys/fs/cgroup/user/session/memory.max": "max\n",
            "sys/fs/cgroup/user/session/memory.current": f"{_GIB}\n",
        },
    )
    assert host_memory(root) == (32 * _GIB, 6 * _GIB, 8 * _GIB)


def test_a_control_group_of_version_1_counts_too(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        {
            "proc/meminfo": _MEMINFO,
            "proc/self/cgroup": "7:cpuset:/\n4:memory:/docker/1f\n0::/\n",
            # In a container the top folder is that of its own group.
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * _GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{3 * _GIB}\n",
            "sys/fs/cgroup/memory/memory.stat": f"cache 1\ntotal_cache {2 * _GIB}\n",
        },
    )
    assert host_memory(root) == (32 * _GIB, 3 * _GIB, 4 * _GIB)


def test_a_group_without_a_limit_does_not_count(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        {
            "proc/meminfo": _MEMINFO,
            "proc/self/cgroup": "4:memory:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{3 * _GIB}\n",
        },
    )
    assert host_memory(root) == (32 * _GIB, 16 * _GIB, None)


def test_a_limit_above_the_available_memory_changes_only_the_limit(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        {
            "proc/meminfo": _MEMINFO,
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": f"{24 * _GIB}\n",
            "sys/fs/cgroup/memory.current": f"{_GIB}\n",
        },
    )
    assert host_memory(root) == (32 * _GIB, 16 * _GIB, 24 * _GIB)


@pytest.mark.parametrize(("text", "expected"), [("8388608", 8 << 20), ("unlimited", None)])
def test_the_limit_of_locked_memory_is_read(text: str, expected: int | None, tmp_path: Path) -> None:
    limits = f"Limit  Soft Limit  Hard Limit  Units\nMax locked memory         {text}              {text}    bytes\n"
    root = _write(tmp_path, {"proc/meminfo": _MEMINFO, "proc/self/limits": limits})
    assert detect(tmp_path, root=root).lockable_bytes == expected


def test_without_an_nvidia_driver_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = detect(tmp_path / "not" / "there", root=_write(tmp_path, {"proc/meminfo": _MEMINFO}))
    assert (found.gpus, found.cuda, found.compiler) == ((), Cuda.ABSENT, False)
    assert found.disk_bytes is not None
    assert found.torch is not None


def test_gpus_whose_memory_nvidia_smi_does_not_know_are_left_out() -> None:
    text = (
        "NVIDIA GeForce RTX 3060, 12288, 11000, 8.6, 570.86.10\n"
        "NVIDIA H100, slice 1, [N/A], [N/A], 9.0, 570.86.10\n"
        "Tesla M40, 11448, 11448, [N/A], 570.86.10\n"
        "NVIDIA H100 MIG, [N/A], [N/A], 9.0, 570.86.10\nsome warning\n"
    )
    gpus, driver = parse_smi(text)
    assert gpus == (
        Gpu(name="NVIDIA GeForce RTX 3060", total_bytes=12_288 << 20, free_bytes=11_000 << 20, capability=(8, 6)),
        Gpu(name="Tesla M40", total_bytes=11_448 << 20, free_bytes=11_448 << 20),
    )
    assert driver == "570.86.10"


class _Card:
    """torch.cuda on a machine with two GPUs, or with a driver that it cannot use."""

    def __init__(self, *, problem: str = "", failure: str = "") -> None:
        self._problem, self._failure = problem, failure

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

    def mem_get_info(self, device: int) -> tuple[int, int]:
        if self._failure:
            raise RuntimeError(self._failure)
        return ((30 * _GIB, 40 * _GIB), (15 * _GIB, 16 * _GIB))[device]


def test_free_memory_of_each_gpu_comes_from_torch() -> None:
    assert cuda_gpus(_Card()) == (
        Gpu(name="NVIDIA A100", total_bytes=40 * _GIB, free_bytes=30 * _GIB, capability=(8, 0)),
        Gpu(name="NVIDIA T4", total_bytes=16 * _GIB, free_bytes=15 * _GIB, capability=(7, 5)),
    )


def test_a_warning_of_torch_is_reported_as_the_problem() -> None:
    card = _Card(problem="CUDA initialization: The NVIDIA driver on your system is too old\nPlease update")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gpus, problem = hardware._ask_torch(card)
    assert (gpus, problem) == ((), "CUDA initialization: The NVIDIA driver on your system is too old")
    assert hardware._ask_torch(_Card(failure="CUDA error: out of memory")) == ((), "CUDA error: out of memory")


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
    program.write_text("#!/bin/sh\necho 'NVIDIA A10, 23028, 22500, 8.6, 570.86.10'\n")
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
    assert found.gpus == (Gpu(name="NVIDIA A10", total_bytes=23_028 << 20, free_bytes=22_500 << 20, capability=(8, 6)),)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/cgroup": "0::/\n"}, 64),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "350000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, 64),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 1),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/c\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        ({"proc/self/cgroup": "4:cpu:/c\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"}, 64),
    ],
)
def test_cores_are_those_within_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert usable_cores(_write(tmp_path, files)) == cores


def test_native_kernels_are_found_where_the_build_puts_them(tmp_path: Path) -> None:
    built = list(Path(gptoss_cli.__file__).parent.rglob("_native.*.so"))
    assert detect(tmp_path, root=_write(tmp_path, {"proc/meminfo": _MEMINFO})).kernels == bool(built)


def test_a_quota_may_be_a_part_of_a_core(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
    }
    assert (cpu_quota(_write(tmp_path, files)), usable_cores(tmp_path)) == (0.5, 1)
    assert cpu_quota(tmp_path / "elsewhere") is None
