"""A model that nobody asks is released, and opened again for the next request; no job ever loses it."""

import gc
import json
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from gptoss_cli.chat.request import ChatRequest, OpenedModel
from gptoss_cli.errors import NotInstalledError
from tests.cli.scripted_program import opened_with
from tests.scripted_generator import ScriptedGenerator
from tests.server.branching import BranchingAnswers, opened_branching
from tests.server.running import Running, wait_until
from tests.server.slow_generator import SlowGenerator
from tests.server.turns import ANSWER, ids_of

HI: Final[dict[str, Any]] = {"messages": [{"role": "user", "content": "Hi"}]}
TEXT: Final = "Hello 🙂, you\n\nall."


@pytest.fixture(autouse=True, scope="module")
def _small_heap() -> Iterator[None]:
    """Let the collector look at new objects alone: the heap of a whole test run takes it a second each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Opener:
    """Opens scripted models, and knows which of them still exist. `problem` is raised instead, if it is set."""

    def __init__(self) -> None:
        self.problem: Exception | None = None
        self._models: list[weakref.ref[ScriptedGenerator]] = []

    @property
    def opened(self) -> int:
        return len(self._models)

    @property
    def in_memory(self) -> int:
        gc.collect()
        return sum(each() is not None for each in self._models)

    def __call__(self) -> OpenedModel:
        if self.problem is not None:
            raise self.problem
        generator = ScriptedGenerator([ids_of(ANSWER)] * 9, context_tokens=4096)
        self._models.append(weakref.ref(generator))
        return opened_with(generator, ChatRequest())


def health(running: Running) -> Any:
    status, _, content = running.request("/health")
    assert status == 200
    return json.loads(content)


def answer(running: Running) -> str:
    return str(running.post("/v1/chat/completions", HI)["choices"][0]["message"]["content"])


def test_an_idle_model_is_released_and_opened_for_the_next_request() -> None:
    opener = Opener()
    with Running(opener, idle_seconds=0.05) as running:
        for opened in (1, 2):
            wait_until(lambda: running.worker.sequences == 0)
            assert (opener.opened, opener.in_memory) == (opened, 0)
            assert health(running) == {"status": "ok", "model": "released"}
            assert running.request("/v1/models")[0] == 200
            assert "gptoss_cached_conversations 0\n" in running.request("/metrics")[2].decode()
            assert answer(running) == TEXT


def test_a_model_at_work_is_not_released() -> None:
    generator = SlowGenerator(token_seconds=0.01, rarity=1 << 40)
    with Running(lambda: opened_with(generator, ChatRequest()), idle_seconds=0.05) as running:
        with running.send("/v1/chat/completions", HI | {"stream": True}):
            wait_until(lambda: len(generator.drawn) > 20)
            assert health(running) == {"status": "ok", "model": "loaded"}
        wait_until(lambda: running.worker.sequences == 0)


def test_without_a_limit_the_model_stays() -> None:
    opener = Opener()
    with Running(opener) as running:
        time.sleep(0.1)
        assert answer(running) == TEXT
        assert (opener.opened, opener.in_memory) == (1, 1)


def test_requests_that_come_as_it_is_released_are_answered() -> None:
    opened: list[int] = []

    def open_model() -> OpenedModel:
        opened.append(1)
        return opened_branching(BranchingAnswers())

    with (
        Running(open_model, idle_seconds=0.01, conversations=3, batch=3) as running,
        ThreadPoolExecutor(4) as clients,
    ):
        for pause in (0.012, 0.009, 0.01, 0.03):
            time.sleep(pause)
            assert list(clients.map(lambda _: answer(running), range(4))) == [TEXT] * 4
    assert len(opened) > 1


def test_a_model_that_cannot_be_opened_again_is_an_error_until_it_can() -> None:
    opener = Opener()
    with Running(opener, idle_seconds=0.05) as running:
        wait_until(lambda: running.worker.sequences == 0)
        opener.problem = NotInstalledError("Its files are gone")
        status, _, content = running.request("/v1/chat/completions", HI)
        assert (status, json.loads(content)["error"]["message"]) == (500, "Its files are gone")
        opener.problem = None
        assert answer(running) == TEXT
