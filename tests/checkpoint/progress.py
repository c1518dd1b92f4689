"""Progress that is kept for tests."""

import threading
from collections import Counter


class RecordedProgress:
    """The bytes that each file has reported, from any thread."""

    def __init__(self) -> None:
        self.done_bytes: Counter[str] = Counter()
        self.ended: list[str] = []
        self._lock = threading.Lock()

    def begin(self, name: str, done_bytes: int, total_bytes: int) -> None:
        with self._lock:
            self.done_bytes[name] = done_bytes

    def advance(self, name: str, count_bytes: int) -> None:
        with self._lock:
            self.done_bytes[name] += count_bytes

    def end(self, name: str) -> None:
        with self._lock:
            self.ended.append(name)
