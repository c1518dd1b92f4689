"""Chat completions: a field that changes the answer is honoured or refused, and a stream adds up to the whole."""

import json
from typing import Any

import pytest

from gptoss_cli.harmony.events import PrefillProgress, TurnEnd
from gptoss_cli.harmony.vocabulary import load_encoding
from gptoss_cli.server.chat_completions import read_chat
from gptoss_cli.server.failures import ApiError
from gptoss_cli.server.job import ChatJob, OneSequence
from gptoss_cli.settings import ReasoningEffort
from tests.scripted_generator import ScriptedGenerator
from tests.server.turns import ANSWER, CALL, SERVED, WEATHER, body, check_golden, data, ids_of, run, streamed

USER = {"role": "user", "content": "Hi"}
TOOLS = [{"type": "function", "function": WEATHER}]


def read(**fields: Any) -> Any:
    return read_chat(body(**({"messages": [USER], "tools": TOOLS} | fields)), SERVED)


def job(**fields: Any) -> ChatJob:
    made = read(**fields).job
    assert isinstance(made, ChatJob)
    return made


def prompt(**fields: Any) -> str:
    return load_encoding().decode(job(**fields).prompt)


def whole(turn: str, **fields: Any) -> dict[str, Any]:
    exchange = read(**fields)
    for event in run(exchange, turn):
        exchange.writer.feed(event)
    result: dict[str, Any] = json.loads(json.dumps(exchange.writer.result()))
    return result


def joined(chunks: list[Any]) -> dict[str, Any]:
    """Return the message that the chunks of a stream add up to."""
    message: dict[str, Any] = {"content": "", "reasoning": "", "calls": []}
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            message["reasoning"] += delta.get("reasoning") or ""
            for call in delta.get("tool_calls", ()):
                if call["index"] == len(message["calls"]):
                    message["calls"].append({"id": call["id"], "name": call["function"]["name"], "arguments": ""})
                message["calls"][call["index"]]["arguments"] += call["function"]["arguments"]
            message["finish_reason"] = choice["finish_reason"]
    return message


def test_a_job_that_is_cancelled_before_it_begins_reads_and_draws_nothing() -> None:
    generator = ScriptedGenerator([ids_of(ANSWER)], chunk_tokens=1)
    events = list(job().run(OneSequence(generator), lambda stop: stop()))
    assert [type(event) for event in events] == [PrefillProgress, TurnEnd]
    assert len(generator.sequence) == 0


@pytest.mark.parametrize(("name", "turn"), [("answer", ANSWER), ("call", CALL)])
def test_a_stream_is_as_it_was(name: str, turn: str) -> None:
    events = streamed(read(stream=True, stream_options={"include_usage": True}), turn)
    assert events[-1].encode() == b"data: [DONE]\n\n"
    check_golden(f"chat_completions_{name}", events)


@pytest.mark.parametrize("turn", [ANSWER, CALL])
def test_a_stream_that_ends_anywhere_adds_up_to_the_whole(turn: str) -> None:
    for count in range(1, len(ids_of(turn)) + 1):
        found = joined(data(streamed(read(max_tokens=count), turn)))
        message = whole(turn, max_tokens=count)["choices"][0]["message"]
        assert found["content"] == (message["content"] or "")
        assert found["reasoning"] == message.get("reasoning", "")
        calls = [call["function"] for call in message.get("tool_calls", ())]
        assert [{"name": call["name"], "arguments": call["arguments"]} for call in found["calls"]] == calls


def test_a_whole_answer_has_text_reasoning_and_usage() -> None:
    answer = whole(ANSWER)
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == "Hello 🙂, you\n\nall."
    assert choice["message"]["reasoning"] == "Grüße 🙂!"
    assert choice["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["completion_tokens"] == len(ids_of(ANSWER))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == len(ids_of(ANSWER.partition("<|start|>")[0]))
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}


def test_a_call_has_the_clients_name_and_a_preamble_is_content() -> None:
    (choice,) = whole(CALL)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "One moment."
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["function"] == {"name": "get-weather", "arguments": '{"city": "Zürich 🙂"}'}
    assert call["id"].startswith("call_")


def test_messages_become_those_of_harmony() -> None:
    calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": "get-weather", "arguments": f'{{"city": "{city}"}}'}}
        for i, city in enumerate(("Rome", "Oslo"))
    ]
    text = prompt(
        messages=[
            {"role": "developer", "content": "Second."},
            {"role": "system", "content": [{"type": "text", "text": "First."}]},
            USER,
            {"role": "assistant", "content": "Wait.", "reasoning_content": "I look.", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c1", "content": "snow"},
            {"role": "tool", "tool_call_id": "c0", "content": [{"type": "text", "text": "sun"}]},
        ]
    )
    after = text.partition("<|start|>user")[2]
    assert "# Instructions\n\nFirst.\n\nSecond.\n\n# Tools" in text
    call = "<|start|>assistant to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>"
    result = "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>"
    assert after == (
        "<|message|>Hi<|end|><|start|>assistant<|channel|>analysis<|message|>I look.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>Wait.<|end|>"
        f'{call}{{"city": "Rome"}}<|call|>{result}sun<|end|>{call}{{"city": "Oslo"}}<|call|>{result}snow<|end|>'
        "<|start|>assistant"
    )


def test_a_call_without_a_result_was_not_run_and_two_results_are_one() -> None:
    call = {"id": "c", "function": {"name": "get-weather", "arguments": {"city": "Rome"}}}
    asked = [USER, {"role": "assistant", "tool_calls": [call]}]
    assert '{"city": "Rome"}<|call|>' in prompt(messages=asked)
    assert "<|message|>interrupted, not run<|end|><|start|>user" in prompt(messages=[*asked, USER])
    results = [{"role": "tool", "tool_call_id": "c", "content": text} for text in ("sun", "rain")]
    assert "<|message|>sun\nrain<|end|>" in prompt(messages=[*asked, *results])


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_is_read_from_any_field_within_a_tool_loop(name: str) -> None:
    call = {"id": "c", "function": {"name": "get-weather", "arguments": "{}"}}
    messages = [USER, {"role": "assistant", "tool_calls": [call], name: "I look."}]
    result = {"role": "tool", "tool_call_id": "c", "content": "sun"}
    assert "I look." in prompt(messages=[*messages, result])
    assert "I look." not in prompt(messages=[*messages, result, {"role": "assistant", "content": "Sun."}, USER])


def test_sampling_and_limits_are_passed_on() -> None:
    made = job(temperature=0.5, top_p=0.9, top_k=40, seed=-1, max_completion_tokens=7, max_tokens=9, stop="END")
    settings = made.settings
    assert (settings.temperature, settings.top_p, settings.top_k, settings.max_tokens) == (0.5, 0.9, 40, 7)
    assert settings.seed == 2**32 - 1
    assert made.stop_texts == ("END",)


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, SERVED.effort),
        ({"reasoning_effort": "minimal"}, ReasoningEffort.LOW),
        ({"reasoning_effort": "none"}, ReasoningEffort.NONE),
        ({"reasoning_effort": "high"}, ReasoningEffort.HIGH),
        ({"reasoning": {"effort": "medium"}}, ReasoningEffort.MEDIUM),
    ],
)
def test_the_effort_is_that_of_the_request(fields: dict[str, Any], effort: ReasoningEffort) -> None:
    assert job(**fields).conversation.effort is effort


@pytest.mark.parametrize(
    ("choice", "recipients", "must_call"),
    [
        (None, 1, False),
        ("auto", 1, False),
        ("none", 0, False),
        ("required", 1, True),
        ({"type": "function", "function": {"name": "get-weather"}}, 1, True),
    ],
)
def test_the_tool_choice_decides_what_may_be_called(choice: Any, recipients: int, must_call: bool) -> None:
    functions = job(tool_choice=choice).conversation.functions
    assert (len(functions.recipients), functions.must_call) == (recipients, must_call)


def test_a_stop_text_ends_the_answer_before_it() -> None:
    (choice,) = whole(ANSWER, stop=["\n\nall"])["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hello 🙂, you", "stop")


def test_a_limit_is_finish_reason_length() -> None:
    assert whole(ANSWER, max_tokens=12)["choices"][0]["finish_reason"] == "length"


def test_log_probabilities_are_those_of_the_content() -> None:
    fields = {"logprobs": True, "top_logprobs": 2}
    content = whole(ANSWER, **fields)["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in content).decode() == "Hello 🙂, you\n\nall."
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)
    chunks = data(streamed(read(**fields), ANSWER))
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [entry for part in parts if part for entry in part["content"]] == content


def test_reasoning_is_in_one_field_or_left_out() -> None:
    for exclude in (True, False):
        message = whole(ANSWER, reasoning={"exclude": exclude})["choices"][0]["message"]
        assert ("reasoning" in message) is not exclude
        assert "reasoning_content" not in message


def test_a_format_is_described_and_constrains_the_answer() -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for wanted in ({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, {"type": "json_object"}):
        made = job(response_format=wanted)
        assert made.settings.output is not None
        assert "# Response Formats" in load_encoding().decode(made.prompt)
    assert job(response_format={"type": "text"}).settings.output is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [[]]}, "messages[0]"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [USER, {"role": "tool", "tool_call_id": "x", "content": ""}]}, "messages[1]"),
        ({"messages": [USER, {"role": "tool", "content": ""}]}, "messages[1].tool_call_id"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{}]}]}, "messages[1].tool_calls[0].function"),
        ({"n": 2}, "n"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 1.5}, "seed"),
        ({"stop": [1]}, "stop"),
        ({"top_logprobs": 30, "logprobs": True}, "top_logprobs"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": TOOLS * 2}, "tools"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read(**fields)
    assert caught.value.param == param
    assert caught.value.status == 400
    assert caught.value.to_json()["error"]["type"] == "invalid_request_error"


def test_unknown_fields_are_ignored_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        read(flavour="mint", **{"x" * 99: 1})
    assert caplog.messages == ["the field 'flavour' of a request is not supported, and is ignored"]


def test_instructions_alone_can_be_answered() -> None:
    assert prompt(messages=[{"role": "system", "content": "Greet."}], tools=None).endswith("<|end|><|start|>assistant")


def test_harmless_fields_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    read(
        metadata={"a": "b"},
        user="x",
        frequency_penalty=0.0,
        n=1,
        parallel_tool_calls=True,
        service_tier="auto",
        logit_bias={},
    )
    assert caplog.messages == []


@pytest.mark.parametrize("name", ["gpt-oss-20b", "20b", "gpt-oss:20b", "openai/gpt-oss-20b"])
def test_a_model_has_several_names(name: str) -> None:
    read(model=name)


def test_another_model_does_not_exist() -> None:
    with pytest.raises(ApiError) as caught:
        read(model="gpt-4")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
