"""The engine behind the API gives the same greedy answers as a chat, and reads again only what is new."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from gptoss_cli.chat.opening import open_model
from gptoss_cli.chat.request import ChatRequest, OpenedModel
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.demo import unpack
from gptoss_cli.harmony.events import AnswerDelta
from gptoss_cli.placement.request import PlacementRequest
from tests.server.running import Running

_DATA = Path(unpack.__file__).parent / "data" / "demo.safetensors"
_QUESTIONS = ("Hello", "Who are you?", "How do I download the model?", "What is a KV cache?", "Thank you")
_CONVERSATIONS = 2
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _DATA.exists(), reason="the demo model is not in this copy"),
]


def open_demo(sequences: int = 1) -> OpenedModel:
    request = ChatRequest(
        model="demo",
        settings=TurnSettings(temperature=0),
        kv_limit_bytes=0,
        placement=PlacementRequest(sequences=sequences),
    )
    return open_model(request, progress=lambda _: None, notice=lambda *_, **__: None)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with Running(lambda: open_demo(_CONVERSATIONS + 1), conversations=_CONVERSATIONS, batch=3) as served:
        yield served


class Talk:
    """A conversation of a client with the server, over one of the two endpoints."""

    def __init__(self, running: Running, endpoint: str, **fields: object) -> None:
        self._running = running
        self._endpoint = endpoint
        self._fields = {"temperature": 0, **fields}
        self._messages: list[Any] = []
        self._prompt_tokens = 0
        self.answers: list[str] = []

    def ask(self, question: str) -> int:
        """Send a question -> the tokens of the prompt before it that were read again, which must be its own."""
        self._messages.append({"role": "user", "content": question})
        name = "messages" if self._endpoint == "/v1/chat/completions" else "input"
        answer = self._running.post(self._endpoint, {name: self._messages, **self._fields})
        usage = answer["usage"]
        if name == "messages":
            text = answer["choices"][0]["message"]["content"]
            self._messages.append({"role": "assistant", "content": text})
            tokens, cached = usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]
        else:
            text = answer["output"][-1]["content"][0]["text"]
            self._messages += answer["output"]
            tokens, cached = usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"]
        self.answers.append(text)
        before, self._prompt_tokens = self._prompt_tokens, tokens
        return before - int(cached)


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


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("effort", ["none", "medium"])
def test_each_turn_reads_only_what_is_new(running: Running, endpoint: str, effort: str) -> None:
    fields = {"reasoning_effort": effort} if endpoint == "/v1/chat/completions" else {"reasoning": {"effort": effort}}
    talk = Talk(running, endpoint, **fields)
    for question in _QUESTIONS:
        assert talk.ask(question) <= 0


def test_a_new_conversation_reads_only_what_follows_the_instructions(running: Running) -> None:
    instructions = {"role": "system", "content": "Answer in one sentence, and be friendly. " * 30}
    cached = []
    for question in ("Is it cold on the moon?", "Where does rain come from?"):
        messages = [instructions, {"role": "user", "content": question}]
        usage = running.post("/v1/chat/completions", {"messages": messages, "max_tokens": 5})["usage"]
        cached.append(usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"])
    assert cached[0] > 250 > 20 > cached[1]


def test_conversations_keep_their_cache_whatever_comes_between_them(running: Running) -> None:
    talks = [Talk(running, "/v1/chat/completions"), Talk(running, "/v1/responses", instructions="Be brief.")]
    questions = [f"{question} And {number}?" for number, question in enumerate(_QUESTIONS)]
    for talk in talks:
        assert all(talk.ask(question) <= 0 for question in questions[:2])
    for question in questions[2:]:
        for talk in talks:
            assert talk.ask(question) <= 0
            Talk(running, "/v1/chat/completions").ask(f"Write a title for this conversation: {question}")
    session = open_demo().session
    for question, found in zip(questions, talks[0].answers, strict=True):
        events = session.turn(question)
        assert "".join(event.text for event in events if isinstance(event, AnswerDelta)) == found


def test_answers_written_at_the_same_time_are_those_of_a_fresh_engine(running: Running) -> None:
    expected = [Talk(running, "/v1/responses") for _ in _QUESTIONS]
    for talk, question in zip(expected, _QUESTIONS, strict=True):
        talk.ask(question)
    found = [Talk(running, "/v1/responses") for _ in _QUESTIONS]
    threads = [
        threading.Thread(target=talk.ask, args=(question,)) for talk, question in zip(found, _QUESTIONS, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [talk.answers for talk in found] == [talk.answers for talk in expected]
