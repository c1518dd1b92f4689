"""One thread does one job after another; a job that is cancelled ends at once, and the queue has an end."""

import datetime
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from gptoss_cli.chat.request import ChatRequest, ModelInfo, OpenedModel
from gptoss_cli.chat.session import ChatSession
from gptoss_cli.errors import NotInstalledError, ResourceError
from gptoss_cli.server.chat_completions import read_chat
from gptoss_cli.server.completions import read_completion
from gptoss_cli.server.exchange import Exchange
from gptoss_cli.server.failures import ApiError
from gptoss_cli.server.fields import Fields, parse_body
from gptoss_cli.server.job import Job, SequencePool
from gptoss_cli.server.served import Served
from gptoss_cli.server.worker import JobEnd, Ticket, Worker
from gptoss_cli.settings import ReasoningEffort
from tests.cli.scripted_program import opened_with
from tests.random_generator import RandomGenerator
from tests.scripted_generator import ScriptedGenerator
from tests.server.branching import BranchingScripted, opened_branching
from tests.server.turns import SERVED

_SECONDS = 20


def opened() -> OpenedModel:
    session = ChatSession(
        ScriptedGenerator([]), instructions=None, effort=ReasoningEffort.LOW, date=datetime.date(2025, 8, 5)
    )
    return OpenedModel(session, ModelInfo("scripted"))


class StepJob:
    """Yields a number for each time that it may go on, until it is stopped."""

    prompt = (1,)

    def __init__(self) -> None:
        self.may_go_on = threading.Semaphore(0)
        self.stopped = threading.Event()

    def run(self, pool: SequencePool, on_stop: Callable[[Callable[[], None]], None]) -> Generator[object]:
        on_stop(self.stopped.set)
        for number in range(1_000):
            yield number
            while not self.may_go_on.acquire(timeout=0.01):
                if self.stopped.is_set():
                    return


class FailingJob:
    """Fails with `exc` after one event."""

    prompt = (1,)

    def __init__(self, exc: Exception) -> None:
        self._exc = exc

    def run(self, pool: SequencePool, on_stop: Callable[[Callable[[], None]], None]) -> Generator[object]:
        yield 0
        raise self._exc


@pytest.fixture
def worker() -> Iterator[Worker]:
    loaded = threading.Event()
    made = Worker(opened, queue_limit=2, loaded=lambda _: loaded.set())
    made.start()
    assert loaded.wait(_SECONDS)
    yield made
    made.close()
    made.join(_SECONDS)


def take(items: "queue.Queue[Any]") -> Any:
    return items.get(timeout=_SECONDS)


def test_jobs_are_done_in_order(worker: Worker) -> None:
    items: queue.Queue[Any] = queue.Queue()
    first, second = StepJob(), StepJob()
    tickets = [
        worker.submit(first, lambda item: items.put((0, item))),
        worker.submit(second, lambda item: items.put((1, item))),
    ]
    assert take(items) == (0, 0)
    assert worker.queue_length == 1
    tickets[0].cancel()
    assert take(items) == (0, JobEnd())
    assert take(items) == (1, 0)
    tickets[1].cancel()
    assert take(items) == (1, JobEnd())


def test_a_model_with_several_sequences_does_several_jobs_at_a_time() -> None:
    loaded = threading.Event()
    worker = Worker(
        lambda: opened_branching(BranchingScripted()),
        queue_limit=1,
        conversations=4,
        batch=2,
        loaded=lambda _: loaded.set(),
    )
    worker.start()
    assert loaded.wait(_SECONDS)
    items: list[queue.Queue[Any]] = [queue.Queue() for _ in range(3)]
    tickets = [worker.submit(StepJob(), each.put) for each in items[:2]]
    assert [take(each) for each in items[:2]] == [0, 0]
    tickets.append(worker.submit(StepJob(), items[2].put))
    with pytest.raises(ApiError):
        worker.submit(StepJob(), lambda item: None)
    tickets[1].cancel()
    assert take(items[1]) == JobEnd()
    assert take(items[2]) == 0
    worker.close()
    assert [take(items[index]) for index in (0, 2)] == [JobEnd(), JobEnd()]
    worker.join(_SECONDS)


def test_a_job_that_is_cancelled_while_it_waits_does_not_begin(worker: Worker) -> None:
    items: queue.Queue[Any] = queue.Queue()
    running = worker.submit(StepJob(), lambda item: None)
    waiting = worker.submit(StepJob(), items.put)
    waiting.cancel()
    running.cancel()
    assert take(items) == JobEnd()


class LeftClientJob:
    """A job whose client goes away after it was taken from the queue and before it can be told to stop."""

    def __init__(self, job: Job) -> None:
        self.prompt = job.prompt
        self.tickets: queue.Queue[Ticket] = queue.Queue()
        self._job = job

    def run(self, pool: SequencePool, on_stop: Callable[[Callable[[], None]], None]) -> Generator[object]:
        self.tickets.get(timeout=_SECONDS).cancel()
        yield from self._job.run(pool, on_stop)


@pytest.mark.parametrize("read", [read_chat, read_completion])
def test_a_job_that_is_cancelled_as_it_begins_ends_at_once(read: Callable[[Fields, Served], Exchange]) -> None:
    generator = RandomGenerator(rarity=1 << 40)
    loaded = threading.Event()
    worker = Worker(lambda: opened_with(generator, ChatRequest()), queue_limit=1, loaded=lambda _: loaded.set())
    worker.start()
    assert loaded.wait(_SECONDS)
    fields = parse_body(b'{"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi", "max_tokens": 100000}')
    job = LeftClientJob(read(fields, SERVED).job)
    items: queue.Queue[Any] = queue.Queue()
    job.tickets.put(worker.submit(job, items.put))
    while take(items) != JobEnd():
        pass
    assert generator.drawn == []
    worker.close()
    worker.join(_SECONDS)


def test_a_cancelled_job_leaves_the_queue_at_once(worker: Worker) -> None:
    began = threading.Event()
    running = worker.submit(StepJob(), lambda item: began.set())
    assert began.wait(_SECONDS)
    items: queue.Queue[Any] = queue.Queue()
    for _ in range(3):
        worker.submit(StepJob(), items.put).cancel()
        assert take(items) == JobEnd()
    assert worker.queue_length == 0
    running.cancel()


def test_a_full_queue_says_when_to_come_back(worker: Worker) -> None:
    began = threading.Event()
    tickets = [worker.submit(StepJob(), lambda item: began.set())]
    assert began.wait(_SECONDS)
    tickets += [worker.submit(StepJob(), lambda item: None) for _ in range(2)]
    with pytest.raises(ApiError) as caught:
        worker.submit(StepJob(), lambda item: None)
    assert (caught.value.status, caught.value.retry_after_seconds) == (429, 5)
    for ticket in tickets:
        ticket.cancel()


@pytest.mark.parametrize(
    ("exc", "status", "message"),
    [
        (ValueError("secret of a prompt"), 500, "Unexpected error: ValueError"),
        (ResourceError("No memory is left"), 500, "No memory is left"),
    ],
)
def test_a_job_that_fails_is_reported_and_the_next_one_is_done(
    worker: Worker, exc: Exception, status: int, message: str
) -> None:
    items: queue.Queue[Any] = queue.Queue()
    worker.submit(FailingJob(exc), items.put)
    assert take(items) == 0
    failure = take(items)
    assert (failure.status, failure.message) == (status, message)
    assert take(items) == JobEnd()
    worker.submit(StepJob(), items.put).cancel()
    assert take(items) in (0, JobEnd())


def test_closing_ends_the_running_job_and_refuses_the_waiting_ones(worker: Worker) -> None:
    items: queue.Queue[Any] = queue.Queue()
    waiting: queue.Queue[Any] = queue.Queue()
    worker.submit(StepJob(), items.put)
    assert take(items) == 0
    worker.submit(StepJob(), waiting.put)
    worker.close()
    assert take(waiting).code == "server_stopping"
    assert take(waiting) == JobEnd()
    assert take(items) == JobEnd()
    with pytest.raises(ApiError):
        worker.submit(StepJob(), items.put)


def test_a_model_that_cannot_be_opened_is_reported() -> None:
    failures: queue.Queue[BaseException] = queue.Queue()

    def fail() -> OpenedModel:
        raise NotInstalledError("It is not here")

    made = Worker(fail, queue_limit=1, failed=failures.put)
    with pytest.raises(ApiError) as caught:
        made.submit(StepJob(), lambda item: None)
    assert caught.value.status == 503
    made.start()
    assert isinstance(failures.get(timeout=_SECONDS), NotInstalledError)
