"""A model of the tests that takes its time, so that clients can go away meanwhile."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from tests.random_generator import RandomGenerator


class SlowGenerator(RandomGenerator):
    """Takes `seconds` for each token or chunk, and says when it is at work."""

    def __init__(self, *, prefill_seconds: float = 0, token_seconds: float = 0.01, rarity: int = 8) -> None:
        super().__init__(rarity=rarity)
        self.prefill_seconds = prefill_seconds
        self.token_seconds = token_seconds
        self.busy = False
        self.prefills = 0

    def prefill(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """See TokenGenerator.prefill."""
        self.busy = True
        self.prefills += 1
        try:
            for done in range(10 if self.prefill_seconds else 0):
                time.sleep(self.prefill_seconds)
                yield done, len(ids)
            yield from super().prefill(ids)
        finally:
            self.busy = False

    def decode(self, *positional: Any, **named: Any) -> Iterator[int]:
        """See TokenGenerator.decode."""
        self.busy = True
        try:
            for token in super().decode(*positional, **named):
                time.sleep(self.token_seconds)
                yield token
        finally:
            self.busy = False
