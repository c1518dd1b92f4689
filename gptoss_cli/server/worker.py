"""The threads that use the engine: they take one job after another, in the order in which they came."""

import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Final

from gptoss_cli.chat.request import OpenedModel
from gptoss_cli.errors import GptossError
from gptoss_cli.harmony.structured_output import warm_up
from gptoss_cli.server.failures import ApiError, failure_of, model_loading, queue_full, stopping
from gptoss_cli.server.job import Job, OneSequence, SequencePool
from gptoss_cli.server.pool import ConversationPool

_LOGGER: Final = logging.getLogger(__name__)
# Preparing for constrained messages takes a second, which the opening and a first request need themselves.
_PREPARE_AFTER_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class JobEnd:
    """The last item of a job, whether it succeeded or not."""


Deliver = Callable[[object], None]


@dataclass(slots=True, eq=False)
class Ticket:
    """A job in the queue. `deliver` gets its events, or the ApiError that ended it, and JobEnd at last.

    `withdraw` takes it out of the queue if it still waits there.
    """

    job: Job
    deliver: Deliver
    withdraw: "Callable[[Ticket], None]"
    cancelled: bool = False
    _stop: list[Callable[[], None]] = field(default_factory=list)

    def cancel(self) -> None:
        """End the job at the next token or prefill chunk, or before it begins. Any thread may call it."""
        self.cancelled = True
        self.withdraw(self)
        self.stop_if_cancelled()

    def on_stop(self, stop: Callable[[], None]) -> None:
        """Take the function that ends the running job."""
        self._stop.append(stop)
        self.stop_if_cancelled()

    def forget_job(self) -> None:
        """Forget how to stop the job that has ended, and with it the engine."""
        self._stop.clear()

    def stop_if_cancelled(self) -> None:
        """End the running job if it was cancelled; again after each event: a prefill that begins forgets one."""
        if self.cancelled:
            for stop in tuple(self._stop):
                stop()


def _prepare() -> None:
    # The first request that needs it meets the same failure, and its client is told.
    with suppress(GptossError):
        warm_up()


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The facts about the model that clients may know. They stay while the weights are not in memory."""

    name: str
    context_tokens: int


class Worker:
    """Loads a model, then does jobs until it is closed.

    At most `queue_limit` jobs wait. `open_model` runs in the thread of the worker, and so does everything that the
    engine does; `loaded` is called there when jobs can be done, `failed` if the model cannot be opened.

    A model that can have several sequences keeps those of `conversations`, and does up to `batch` jobs at a time, each
    in a thread of its own. After `idle_seconds` without a job the model is released; the next job opens it again.
    """

    def __init__(
        self,
        open_model: Callable[[], OpenedModel],
        *,
        queue_limit: int,
        conversations: int = 1,
        batch: int = 1,
        idle_seconds: float | None = None,
        loaded: Callable[[OpenedModel], None] = lambda _: None,
        failed: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self.served: ServedModel | None = None
        self._open_model = open_model
        self._queue_limit = queue_limit
        self._conversations = conversations
        self._batch = batch
        self._idle_seconds = idle_seconds
        self._loaded = loaded
        self._failed = failed
        self._pool: SequencePool | None = None
        self._waiting: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._running: list[Ticket] = []
        self._ended_at = 0.0  # when the last job ended, in seconds of time.monotonic
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name="engine", daemon=True)]
        self._preparing = threading.Timer(_PREPARE_AFTER_SECONDS, _prepare)
        self._preparing.daemon = True

    @property
    def queue_length(self) -> int:
        """The number of jobs that wait."""
        return len(self._waiting)

    @property
    def sequences(self) -> int:
        """The number of KV sequences in memory; 0 while there is no model."""
        pool = self._pool
        return 0 if pool is None else pool.sequences

    def start(self) -> None:
        """Begin to load the model."""
        self._threads[0].start()

    def submit(self, job: Job, deliver: Deliver) -> Ticket:
        """Put a job at the end of the queue. Raises ApiError if there is no model yet, or the queue is full."""
        with self._changed:
            if self._closed:
                raise stopping()
            if self.served is None:
                raise model_loading()
            idle = len(self._threads) - len(self._running)
            if len(self._waiting) >= self._queue_limit + idle:
                raise queue_full(len(self._waiting))
            ticket = Ticket(job, deliver, self._withdraw)
            self._waiting.append(ticket)
            self._changed.notify_all()
        return ticket

    def close(self) -> None:
        """Take no more jobs, and end the running one in order: its last events still come.

        Sets flags only, but waits for the lock of the queue, so a signal handler must not call it in this thread.
        """
        with self._changed:
            self._closed = True
            running = list(self._running)
            self._changed.notify_all()
        self._preparing.cancel()
        self._refuse_waiting(stopping())
        for ticket in running:
            ticket.cancel()

    def join(self, seconds: float) -> None:
        """Wait until the threads have ended."""
        for thread in (*self._threads, self._preparing):
            if thread.is_alive():
                thread.join(seconds)

    def _run(self) -> None:
        try:
            opened = self._open_model()
        except BaseException as exc:  # noqa: BLE001  the caller of `failed` raises it again
            self._failed(exc)
            return
        self._begin(opened)
        self._loaded(opened)
        del opened  # the pool alone keeps the model
        self._preparing.start()
        while (ticket := self._next(opens=True)) is not None:
            self._do(ticket)

    def _work(self) -> None:
        while (ticket := self._next()) is not None:
            self._do(ticket)

    def _begin(self, opened: OpenedModel) -> None:
        """Make the sequences of a model that was opened, and the threads that use them at the same time."""
        pool = (
            OneSequence(opened.session.generator)
            if opened.branching is None
            else ConversationPool(opened.branching, conversations=self._conversations, threads=self._batch)
        )
        others = [
            threading.Thread(target=self._work, name="engine", daemon=True)
            for _ in range(pool.threads - len(self._threads))
        ]
        with self._changed:
            self._threads += others
            self._pool = pool
            self.served = ServedModel(opened.info.model, opened.session.context_tokens)
            self._ended_at = time.monotonic()
            self._changed.notify_all()
        for thread in others:
            thread.start()

    def _withdraw(self, ticket: Ticket) -> None:
        with self._changed:
            if ticket not in self._waiting:
                return
            self._waiting.remove(ticket)
        ticket.deliver(JobEnd())

    def _refuse_waiting(self, failure: ApiError) -> None:
        with self._changed:
            waiting = list(self._waiting)
            self._waiting.clear()
        for ticket in waiting:
            ticket.deliver(failure)
            ticket.deliver(JobEnd())

    def _next(self, *, opens: bool = False) -> Ticket | None:
        """Wait for the next job; None if there is none any more. One thread `opens` and releases the model too."""
        while True:
            with self._changed:
                while not self._closed:
                    has_job, left = bool(self._waiting), self._seconds_until_release()
                    if has_job and self._pool is not None:
                        ticket = self._waiting.popleft()
                        self._running.append(ticket)
                        return ticket
                    if opens and (has_job or left == 0):
                        break
                    self._changed.wait(left if opens else None)
                else:
                    return None
                pool, self._pool = self._pool, None
            if pool is None:
                self._reopen()
            else:
                del pool
                gc.collect()

    def _seconds_until_release(self) -> float | None:
        """Return how long the model stays in memory if no job comes; None for ever."""
        if self._idle_seconds is None or self._pool is None or self._running or self._waiting:
            return None
        return max(0, self._ended_at + self._idle_seconds - time.monotonic())

    def _reopen(self) -> None:
        try:
            self._begin(self._open_model())
        except Exception as exc:  # noqa: BLE001  the clients that wait are told, and later ones try again
            _LOGGER.warning("the model cannot be opened again: %s", type(exc).__name__)
            self._refuse_waiting(failure_of(exc))

    def _do(self, ticket: Ticket) -> None:
        pool = self._pool
        assert pool is not None, "a model is released only while no job runs"
        try:
            with closing(ticket.job.run(pool, ticket.on_stop)) as events:
                for event in events:
                    ticket.deliver(event)
                    ticket.stop_if_cancelled()
        except Exception as exc:
            _LOGGER.warning("a request failed: %s", type(exc).__name__, exc_info=_LOGGER.isEnabledFor(logging.DEBUG))
            ticket.deliver(failure_of(exc))
        ticket.forget_job()
        with self._changed:
            self._running.remove(ticket)
            self._ended_at = time.monotonic()
            self._changed.notify_all()
        ticket.deliver(JobEnd())
