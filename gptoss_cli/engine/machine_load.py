"""The share of the processors that other programs use during a measurement (Linux, proc(5))."""

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_BUSY_FIELDS = 0, 1, 2, 5, 6, 7  # user, nice, system, irq, softirq, steal; not idle and iowait


class OtherLoad:
    """The processor time of other programs, and of other virtual machines on the same cores, from its creation on."""

    def __init__(self, stat: Path = _STAT) -> None:
        self._stat = stat
        self._began = time.perf_counter()
        self._before = self._read()

    def cores(self) -> float | None:
        """Return how many cores the others kept busy on average; None if the system does not report it."""
        now, seconds = self._read(), time.perf_counter() - self._began
        if now is None or self._before is None or not seconds:
            return None
        return max(0.0, now - self._before) / seconds

    def _read(self) -> float | None:
        """Return the seconds of processor time that others have used so far."""
        try:
            fields = self._stat.read_text("utf-8").split("\n", 1)[0].split()[1:]
            ticks = sum(int(fields[index]) for index in _BUSY_FIELDS)
            return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()
        except (OSError, AttributeError, ValueError, IndexError):
            return None
