"""Decoding several sequences at once: whoever needs the next logits at the same time gets them from one forward.

    thread of A   draw, yield | wait              | draw, yield | wait
    thread of B     draw, yield | read A, B, C            | draw, yield | read A, B, C
    thread of C   draw, yield | wait              | draw, yield | wait

The first thread that needs logits leads: it waits a moment for the other sequences that are being decoded, and reads
the pending id of each. Reading the weights takes most of the time of a token, and one forward reads them once.
"""

import logging
import time
from collections.abc import Iterator
from threading import Condition
from typing import Final

from torch import Tensor

from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.sequence import Sequence, read_together

_LOGGER: Final = logging.getLogger(__name__)
# A thread that draws is back within this part of a step, unless it has something else to do.
_PART_OF_STEP: Final = 0.1
_LEAST_WAIT_SECONDS, _MOST_WAIT_SECONDS = 0.001, 0.02


class _FairLock:
    """A lock that threads get in the order in which they asked: those that decode are not starved by a prefill."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._tickets = 0
        self._serving = 0

    def __enter__(self) -> None:
        with self._changed:
            ticket = self._tickets
            self._tickets += 1
            self._changed.wait_for(lambda: self._serving == ticket)

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            self._serving += 1
            self._changed.notify_all()


class _Waiting:
    """A sequence whose thread waits for logits. After a forward that failed there are none."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.is_done = False
        self.logits: Tensor | None = None


class DecodeBatcher:
    """Lets threads, each with a sequence of its own, share a model."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._computing = _FairLock()
        self._changed = Condition()
        self._waiting: list[_Waiting] = []
        self._is_led = False
        self._decoding = 0
        self._step_seconds = 0.0

    def computing(self) -> _FairLock:
        """Return the lock of the model: whoever runs it, other than by `next_logits`, holds it."""
        return self._computing

    def counted(self, ids: Iterator[int]) -> Iterator[int]:
        """Yield the ids of a decode, whose sequence the others wait for until it ends."""
        with self._changed:
            self._decoding += 1
        try:
            yield from ids
        finally:
            with self._changed:
                self._decoding -= 1
                self._changed.notify_all()

    def next_logits(self, sequence: Sequence) -> Tensor | None:
        """Read the only pending id of `sequence` -> logits [V] after it, or None if that failed.

        It may have failed for another sequence of the batch. The ids are pending then, to be read alone.
        """
        assert len(sequence.pending) == 1
        own = _Waiting(sequence)
        with self._changed:
            self._waiting.append(own)
            self._changed.notify_all()
            self._changed.wait_for(lambda: own.is_done or not self._is_led)
            if own.is_done:
                return own.logits
            self._is_led = True
        with self._computing:
            batch = self._gather()
            try:
                self._read(batch)
            except Exception as exc:  # noqa: BLE001  each thread reads its ids alone, and meets its own failure
                _LOGGER.warning("a step of %d sequences failed: %s", len(batch), exc)
        with self._changed:
            self._is_led = False
            for waiting in batch:
                waiting.is_done = True
            self._changed.notify_all()
        return own.logits

    def _gather(self) -> list[_Waiting]:
        seconds = min(max(self._step_seconds * _PART_OF_STEP, _LEAST_WAIT_SECONDS), _MOST_WAIT_SECONDS)
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) >= self._decoding, seconds)
            batch, self._waiting = self._waiting, []
        return batch

    def _read(self, batch: list[_Waiting]) -> None:
        began = time.perf_counter()
        if len(batch) == 1:
            # The kernels for one token are faster, and one operation runs them all.
            sequence = batch[0].sequence
            sequence.read_pending_chunk()
            assert sequence.hidden is not None
            batch[0].logits = self._model.unembed(sequence.hidden)[0]
        else:
            logits = read_together(self._model, [waiting.sequence for waiting in batch])
            for waiting, row in zip(batch, logits, strict=True):
                waiting.logits = row
        self._step_seconds = time.perf_counter() - began
