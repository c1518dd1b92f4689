"""Detecting hardware from files and programs."""

from pathlib import Path

import pytest

import gptoss_cli
from gptoss_cli.placement.gpus import Cuda
from gptoss_cli.placement.hardware import cpu_quota, detect, host_memory, usable_cores

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


def test_without_an_nvidia_driver_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = detect(tmp_path / "not" / "there", root=_write(tmp_path, {"proc/meminfo": _MEMINFO}))
    assert (found.gpus, found.cuda, found.compiler) == ((), Cuda.ABSENT, False)
    assert found.disk_bytes is not None
    assert found.torch is not None


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
