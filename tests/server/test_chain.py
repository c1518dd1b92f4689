"""A server whose model is on another server: clients get the same answers, failures and freedom to go away."""

from collections.abc import Callable
from typing import Any, Final

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from gptoss_cli.chat.remote_opening import open_remote
from gptoss_cli.chat.request import ChatRequest, OpenedModel
from gptoss_cli.remote.request import ServerRequest
from tests.remote.fake_servers import FakeLlama, FakeServer, FakeSglang, FakeVllm, Faults
from tests.remote.turns import Notices, speaking
from tests.server.running import Running, wait_until
from tests.server.turns import ANSWER, CALL, WEATHER

HI: Final[dict[str, Any]] = {"messages": [{"role": "user", "content": "Hi"}]}
TEXT: Final = "Hello 🙂, you\n\nall."
BODIES: Final[dict[str, dict[str, Any]]] = {
    "chat/completions": HI,
    "responses": {"input": "Hi"},
    "completions": {"prompt": "<|start|>user<|message|>Hi<|end|><|start|>assistant", "max_tokens": 99},
}


def opening(server: FakeServer) -> Callable[[], OpenedModel]:
    request = ChatRequest(server=ServerRequest(server.url))
    return lambda: open_remote(request, progress=lambda text: None, notice=Notices())


def text_of(path: str, answer: Any) -> str:
    if path == "responses":
        return str(answer["output"][-1]["content"][0]["text"])
    choice = answer["choices"][0]
    return str(choice["text"] if path == "completions" else choice["message"]["content"])


@pytest.mark.parametrize("kind", [FakeVllm, FakeSglang, FakeLlama])
def test_every_endpoint_answers_whole_and_streamed(kind: type[FakeServer]) -> None:
    with kind(speaking(ANSWER)) as fake, Running(opening(fake)) as running:
        for path, body in BODIES.items():
            assert text_of(path, running.post(f"/v1/{path}", body)).endswith(TEXT)
            status, _, content = running.request(f"/v1/{path}", {**body, "stream": True})
            assert status == 200
            assert b"Hello" in content


def test_a_function_is_called() -> None:
    with FakeVllm(speaking(CALL)) as fake, Running(opening(fake)) as running:
        tools = [{"type": "function", "function": WEATHER}]
        (choice,) = running.post("/v1/chat/completions", {**HI, "tools": tools})["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], call["function"]["name"]) == ("tool_calls", "get-weather")


def test_an_answer_that_breaks_goes_on() -> None:
    with FakeVllm(speaking(ANSWER), faults=Faults(dies_after=9)) as fake, Running(opening(fake)) as running:
        for path, body in BODIES.items():
            fake.faults.times = 1
            assert text_of(path, running.post(f"/v1/{path}", body)).endswith(TEXT)


def test_a_failure_of_the_other_server_is_status_502_and_the_next_answer_comes() -> None:
    with FakeVllm(speaking(ANSWER), faults=Faults(fails_after=0)) as fake, Running(opening(fake)) as running:
        for path, body in BODIES.items():
            status, _, content = running.request(f"/v1/{path}", body)
            assert status == 502, content
        fake.faults.fails_after = None
        assert text_of("chat/completions", running.post("/v1/chat/completions", HI)) == TEXT


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("path", BODIES)
def test_a_client_that_goes_away_frees_both(path: str, stream: bool) -> None:
    with FakeVllm(speaking(ANSWER), faults=Faults(hangs_after=9)) as fake, Running(opening(fake)) as running:
        with running.send(f"/v1/{path}", {**BODIES[path], "stream": stream}):
            wait_until(lambda: fake.seen.running == 1)
        wait_until(lambda: (fake.seen.aborts, fake.seen.running) == (1, 0))
