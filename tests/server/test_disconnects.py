"""A client that goes away frees the engine within a token or a chunk, whatever it asked for and wherever the job is."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from gptoss_cli.chat.request import ChatRequest
from gptoss_cli.harmony.structured_output import is_available
from tests.cli.scripted_program import opened_with
from tests.random_generator import RandomGenerator
from tests.server.running import SECONDS, Running, wait_until
from tests.server.slow_generator import SlowGenerator

HI: Final[dict[str, Any]] = {"messages": [{"role": "user", "content": "Hi"}]}
SCHEMA: Final = {"type": "object", "properties": {"text": {"type": "string", "minLength": 9_000}}, "required": ["text"]}
PLAIN: Final[dict[str, dict[str, Any]]] = {
    "chat/completions": HI,
    "responses": {"input": "Hi"},
    "completions": {"prompt": [1]},
}
CONSTRAINED: Final[dict[str, dict[str, Any]]] = {
    "chat/completions": HI
    | {
        "reasoning_effort": "none",
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    },
    "responses": {
        "input": "Hi",
        "reasoning": {"effort": "none"},
        "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}},
    },
    "completions": {"prompt": [1], "allowed_token_ids": [5, 6]},
}
# A busy machine may take this many tokens of 10 ms until the server has seen that the connection is closed.
_MOST_TOKENS_LATER: Final = 100


class StuckGenerator(RandomGenerator):
    """Waits for a server that says nothing until it is interrupted. See Interruptible."""

    def __init__(self) -> None:
        super().__init__()
        self.busy = False
        self._interrupted = threading.Event()

    def interrupt(self) -> None:
        """See Interruptible.interrupt."""
        self._interrupted.set()

    def prefill(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """See TokenGenerator.prefill."""
        self._interrupted.clear()
        return super().prefill(ids)

    def decode(self, *positional: Any, **named: Any) -> Iterator[int]:
        """See TokenGenerator.decode."""
        self.busy = True
        self._interrupted.wait(SECONDS * 2)
        self.busy = False
        yield from ()


@pytest.fixture(scope="module")
def slow() -> Iterator[tuple[Running, SlowGenerator]]:
    generator = SlowGenerator(rarity=1 << 40)
    with Running(lambda: opened_with(generator, ChatRequest())) as running:
        yield running, generator


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("path", PLAIN)
@pytest.mark.parametrize("phase", ["prefill", "decode", "constrained"])
def test_the_engine_is_free_within_a_token_or_a_chunk(
    slow: tuple[Running, SlowGenerator], path: str, phase: str, stream: bool
) -> None:
    if phase == "constrained" and not is_available():
        pytest.skip("llguidance is not installed")
    running, generator = slow
    generator.prefill_seconds = 0.05 if phase == "prefill" else 0
    body = (CONSTRAINED if phase == "constrained" else PLAIN)[path]
    limit = "max_output_tokens" if path == "responses" else "max_tokens"
    connection = running.send(f"/v1/{path}", {**body, "stream": stream, limit: 9_000})
    wait_until(lambda: generator.busy and (phase == "prefill" or len(generator.drawn) > 2))
    drawn = 0 if phase == "prefill" else len(generator.drawn)
    connection.close()
    wait_until(lambda: not generator.busy)
    assert len(generator.drawn) - drawn < _MOST_TOKENS_LATER
    assert running.worker.queue_length == 0


@pytest.mark.parametrize("path", PLAIN)
def test_a_model_that_waits_for_a_server_is_interrupted(path: str) -> None:
    generator = StuckGenerator()
    with Running(lambda: opened_with(generator, ChatRequest())) as running:
        with running.send(f"/v1/{path}", PLAIN[path]):
            wait_until(lambda: generator.busy)
        wait_until(lambda: not generator.busy)


def test_a_client_that_goes_away_while_it_waits_never_begins(slow: tuple[Running, SlowGenerator]) -> None:
    running, generator = slow
    generator.prefill_seconds = 0
    first = running.send("/v1/chat/completions", {**HI, "stream": True})
    wait_until(lambda: generator.busy)
    prefills = generator.prefills
    for path, body in PLAIN.items():
        for stream in (True, False):
            second = running.send(f"/v1/{path}", {**body, "stream": stream})
            wait_until(lambda: running.worker.queue_length == 1)
            second.close()
            wait_until(lambda: running.worker.queue_length == 0)
    assert generator.busy
    first.close()
    wait_until(lambda: not generator.busy)
    assert generator.prefills == prefills
