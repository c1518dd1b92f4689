"""The threads that use the engine: they take one job after another, in the order in which they came."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Final

from gptoss_cli.chat.request import OpenedModel
from gptoss_cli.errors import GptossError
from gptoss_cli.harmony.structured_output import warm_up
from gptoss_cli.server.failures import failure_of, model_loading, queue_full, stopping
from gptoss_cli.server.job import Job, OneSequence, SequencePool
from gptoss_cli.server.pool import ConversationPool

_LOGGER: Final = logging.getLogger(__name__)


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

    def stop_if_cancelled(self) -> None:
        """End the running job if it was cancelled; again after each event, since a turn that begins forgets a stop."""
        if self.cancelled:
            for stop in self._stop:
                stop()


def _prepare() -> None:
    # The first request that needs it meets the same failure, and its client is told.
    with suppress(GptossError):
        warm_up()


class Worker:
    """Loads a model, then does jobs until it is closed.

    At most `queue_limit` jobs wait. `open_model` runs in the thread of the worker, and so does everything that the
    engine does; `loaded` is called there when jobs can be done, `failed` if the model cannot be opened.

    A model that can have several sequences keeps those of `conversations`, and does up to `batch` jobs at a time, each
    in a thread of its own.
    """

    def __init__(
        self,
        open_model: Callable[[], OpenedModel],
        *,
        queue_limit: int,
        conversations: int = 1,
        batch: int = 1,
        loaded: Callable[[OpenedModel], None] = lambda _: None,
        failed: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self.opened: OpenedModel | None = None
        self.pool: SequencePool | None = None
        self._open_model = open_model
        self._queue_limit = queue_limit
        self._conversations = conversations
        self._batch = batch
        self._loaded = loaded
        self._failed = failed
        self._waiting: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._running: list[Ticket] = []
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name="engine", daemon=True)]

    @property
    def queue_length(self) -> int:
        """The number of jobs that wait."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin to load the model."""
        self._threads[0].start()

    def submit(self, job: Job, deliver: Deliver) -> Ticket:
        """Put a job at the end of the queue. Raises ApiError if there is no model yet, or the queue is full."""
        with self._changed:
            if self._closed:
                raise stopping()
            if self.pool is None:
                raise model_loading()
            idle = len(self._threads) - len(self._running)
            if len(self._waiting) >= self._queue_limit + idle:
                raise queue_full(len(self._waiting))
            ticket = Ticket(job, deliver, self._withdraw)
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def close(self) -> None:
        """Take no more jobs, and end the running one in order: its last events still come.

        Sets flags only, but waits for the lock of the queue, so a signal handler must not call it in this thread.
        """
        with self._changed:
            self._closed = True
            running, waiting = list(self._running), list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for ticket in waiting:
            ticket.deliver(stopping())
            ticket.deliver(JobEnd())
        for ticket in running:
            ticket.cancel()

    def join(self, seconds: float) -> None:
        """Wait until the threads have ended."""
        for thread in self._threads:
            if thread.is_alive():
                thread.join(seconds)

    def _run(self) -> None:
        try:
            preparing = threading.Thread(target=_prepare, daemon=True)
            preparing.start()
            opened = self._open_model()
            preparing.join()
        except BaseException as exc:  # noqa: BLE001  the caller of `failed` raises it again
            self._failed(exc)
            return
        pool = self._pool_of(opened)
        with self._changed:
            self.opened, self.pool = opened, pool
        self._loaded(opened)
        for thread in self._threads[1:]:
            thread.start()
        self._work(pool)

    def _pool_of(self, opened: OpenedModel) -> SequencePool:
        if opened.branching is None:
            return OneSequence(opened.session.generator)
        pool = ConversationPool(opened.branching, conversations=self._conversations, threads=self._batch)
        self._threads += [
            threading.Thread(target=self._work, args=(pool,), name="engine", daemon=True)
            for _ in range(pool.threads - 1)
        ]
        return pool

    def _work(self, pool: SequencePool) -> None:
        while (ticket := self._next()) is not None:
            self._do(ticket, pool)
            with self._changed:
                self._running.remove(ticket)

    def _withdraw(self, ticket: Ticket) -> None:
        with self._changed:
            if ticket not in self._waiting:
                return
            self._waiting.remove(ticket)
        ticket.deliver(JobEnd())

    def _next(self) -> Ticket | None:
        with self._changed:
            while not self._closed:
                if self._waiting:
                    ticket = self._waiting.popleft()
                    self._running.append(ticket)
                    return ticket
                self._changed.wait()
        return None

    def _do(self, ticket: Ticket, pool: SequencePool) -> None:
        try:
            with closing(ticket.job.run(pool, ticket.on_stop)) as events:
                for event in events:
                    ticket.deliver(event)
                    ticket.stop_if_cancelled()
        except Exception as exc:
            _LOGGER.warning("a request failed: %s", type(exc).__name__, exc_info=_LOGGER.isEnabledFor(logging.DEBUG))
            ticket.deliver(failure_of(exc))
        ticket.deliver(JobEnd())
