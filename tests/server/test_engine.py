"""The engine behind the API gives the same greedy answers as a chat, and reads again only what is new."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from gptoss_cli.chat.opening import open_model
from gptoss_cli.chat.request import ChatRequest, OpenedModel
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.demo import unpack
from gptoss_cli.harmony.events import AnswerDelta
from tests.server.running import Running

_DATA = Path(unpack.__file__).parent / "data" / "demo.safetensors"
_QUESTIONS = ("Hello", "Who are you?", "How do I download the model?")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _DATA.exists(), reason="the demo model is not in this copy"),
]


def open_demo() -> OpenedModel:
    request = ChatRequest(model="demo", settings=TurnSettings(temperature=0), kv_limit_bytes=0)
    return open_model(request, progress=lambda _: None, notice=lambda *_, **__: None)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with Running(open_demo) as served:
        yield served


def test_greedy_answers_equal_those_of_a_chat(running: Running) -> None:
    session = open_demo().session
    messages = []
    for question in _QUESTIONS:
        expected = "".join(event.text for event in session.turn(question) if isinstance(event, AnswerDelta))
        messages.append({"role": "user", "content": question})
        answer = running.post("/v1/chat/completions", {"messages": messages, "temperature": 0})
        assert answer["choices"][0]["message"]["content"] == expected
        messages.append({"role": "assistant", "content": expected})


def test_greedy_ids_of_a_completion_equal_those_of_a_chat(running: Running) -> None:
    session = open_demo().session
    for question in _QUESTIONS:
        session.keep_messages(0)
        list(session.turn(question))
        assert session.last_turn is not None
        body = {"prompt": session.last_turn.prompt, "temperature": 0, "max_tokens": 500, "return_token_ids": True}
        (choice,) = running.post("/v1/completions", body)["choices"]
        assert choice["token_ids"] == session.last_turn.ids


def test_the_next_turn_reads_only_what_is_new(running: Running) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    first = running.post("/v1/chat/completions", {"messages": messages, "temperature": 0})
    messages += [{"role": "assistant", "content": first["choices"][0]["message"]["content"]}, messages[0]]
    usage = running.post("/v1/chat/completions", {"messages": messages, "temperature": 0})["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= first["usage"]["prompt_tokens"] - 1
