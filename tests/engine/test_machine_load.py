"""The load of other programs is what the system counts, less this process."""

import os
import time
from pathlib import Path

import pytest

from gptoss_cli.engine.machine_load import OtherLoad

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def _write(path: Path, busy_ticks: int) -> None:
    path.write_text(f"cpu  {busy_ticks} 0 0 999 5 0 0 0 0 0\ncpu0 1 2 3\n", "utf-8")


def test_two_cores_of_others_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat, now, own = tmp_path / "stat", 100.0, 5.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(time, "process_time", lambda: own)
    _write(stat, 1000 * _TICKS)
    load = OtherLoad(stat)
    now, own = 110.0, 12.0
    _write(stat, 1027 * _TICKS)
    assert load.cores() == pytest.approx(2.0)


@pytest.mark.parametrize("content", [None, "", "cpu\n", "cpu a b c d e f g h\n"])
def test_a_system_that_does_not_report_it_gives_none(tmp_path: Path, content: str | None) -> None:
    stat = tmp_path / "stat"
    if content is not None:
        stat.write_text(content, "utf-8")
    assert OtherLoad(stat).cores() is None
