"""The requests of Open WebUI 0.12.4 in their order: after each answer it asks for a title, tags and follow-ups.

Written down from what its backend sends; the package itself is too large for a test.
"""

import json
from typing import Any, Final

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from tests.server.branching import BranchingAnswers, opened_branching
from tests.server.running import Running, scripted
from tests.server.turns import ANSWER, CALL, WEATHER

TEXT: Final = "Hello 🙂, you\n\nall."
# Of "Advanced Params": those that have no value are not sent.
PARAMS: Final = {"temperature": 0.8, "max_tokens": 1024, "seed": 0, "frequency_penalty": 0.0, "stop": ["<END>"]}
TASKS: Final[tuple[tuple[str, dict[str, int]], ...]] = (
    ("title", {"max_tokens": 1000}),
    ("tags", {}),
    ("follow-ups", {}),
)


def deltas(content: bytes) -> list[dict[str, Any]]:
    *lines, end = [line[6:] for line in content.decode().splitlines() if line.startswith("data: ")]
    assert end == "[DONE]"
    return [choice["delta"] for line in lines for choice in json.loads(line)["choices"]]


def stream(
    running: Running, messages: list[dict[str, Any]], **more: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the deltas and the usage of a streamed answer."""
    body = {"model": "scripted", "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    status, _, content = running.request("/v1/chat/completions", body | PARAMS | more)
    assert status == 200, content
    usage = [json.loads(line[6:]).get("usage") for line in content.splitlines() if line.startswith(b"data: {")]
    assert isinstance(usage[-1], dict)
    return deltas(content), usage[-1]


# A short conversation is kept by the number of sequences, a long one by its length.
@pytest.mark.parametrize(("conversations", "words"), [(4, 1), (1, 1200)])
def test_its_side_requests_cost_the_conversation_nothing(conversations: int, words: int) -> None:
    with Running(lambda: opened_branching(BranchingAnswers()), conversations=conversations) as running:
        assert json.loads(running.request("/v1/models")[2])["data"][0]["id"] == "scripted"
        messages: list[dict[str, Any]] = [{"role": "system", "content": "helpful " * words}]
        read = 0
        for turn in range(3):
            messages.append({"role": "user", "content": [{"type": "text", "text": f"Question {turn}"}]})
            parts, usage = stream(running, messages)
            assert "".join(part.get("reasoning") or "" for part in parts) == "Grüße 🙂!"
            assert "".join(part.get("content") or "" for part in parts) == TEXT
            assert usage["prompt_tokens_details"]["cached_tokens"] >= read
            read = usage["prompt_tokens"]
            messages.append({"role": "assistant", "content": TEXT})
            for task, more in TASKS:
                asked = f"### Task:\nGenerate {task}.\n<chat_history>{messages[-2:]}</chat_history>"
                body = {"model": "scripted", "messages": [{"role": "user", "content": asked}], "stream": False, **more}
                message = running.post("/v1/chat/completions", body)["choices"][0]["message"]
                assert message["content"] == TEXT


def test_its_tools_are_called_and_their_results_read() -> None:
    tools = [{"type": "function", "function": WEATHER}]
    with Running(scripted(CALL, ANSWER)) as running:
        messages: list[dict[str, Any]] = [{"role": "user", "content": "How is the weather?"}]
        parts, _ = stream(running, messages, tools=tools)
        calls: dict[int, dict[str, Any]] = {}
        for each in (call for part in parts for call in part.get("tool_calls") or ()):
            known = calls.setdefault(each["index"], each)
            if known is not each:
                known["function"]["arguments"] += each["function"]["arguments"]
        assert json.loads(calls[0]["function"]["arguments"]) == {"city": "Zürich 🙂"}
        content = "".join(part.get("content") or "" for part in parts)
        messages += [
            {"role": "assistant", "content": content, "tool_calls": list(calls.values())},
            {"role": "tool", "tool_call_id": calls[0]["id"], "content": "sun"},
        ]
        parts, _ = stream(running, messages, tools=tools)
        assert "".join(part.get("content") or "" for part in parts) == TEXT
