"""Responses: the order of the events, what each of them carries, and the items that clients send back."""

import json
from typing import Any

import pytest

from gptoss_cli.harmony.vocabulary import load_encoding
from gptoss_cli.server.exchange import Exchange
from gptoss_cli.server.failures import ApiError, context_exceeded
from gptoss_cli.server.job import ChatJob
from gptoss_cli.server.response_store import MOST_RESPONSES, ResponseStore
from gptoss_cli.server.responses_input import read_responses
from tests.server.turns import (
    ANSWER,
    CALL,
    SERVED,
    THINK,
    WEATHER,
    body,
    check_golden,
    data,
    ids_of,
    merged_kinds,
    run,
    streamed,
)

PATCH = "*** Begin Patch\n*** End Patch\n"
TEXT_CALL = (
    f"{THINK}<|channel|>commentary to=functions.my_apply_patch <|constrain|>json<|message|>"
    f"{json.dumps({'input': PATCH})}<|call|>"
)
SPACE_CALL = f"{THINK} to=functions.files__read<|channel|>commentary json<|message|>{{}}<|call|>"
TURNS = {"answer": ANSWER, "call": CALL, "text_call": TEXT_CALL, "namespace_call": SPACE_CALL}
TOOLS = [
    {"type": "function", "strict": False, **WEATHER},
    {
        "type": "custom",
        "name": "apply_patch",
        "description": "Patch.",
        "format": {"type": "grammar", "definition": "x"},
    },
    {"type": "namespace", "name": "files", "tools": [{"type": "function", "name": "read", "parameters": {}}]},
    {"type": "web_search"},
]
_ITEM_ENDS = {"response.output_item.added", "response.output_item.done"}


def read(*, store: ResponseStore | None = None, **fields: Any) -> Exchange:
    return read_responses(body(**({"input": "Hi", "tools": TOOLS} | fields)), SERVED, store or ResponseStore())


def prompt(**fields: Any) -> str:
    made = read(**fields).job
    assert isinstance(made, ChatJob)
    return load_encoding().decode(made.prompt)


def whole(turn: str, **fields: Any) -> dict[str, Any]:
    exchange = read(**fields)
    for event in run(exchange, turn):
        exchange.writer.feed(event)
    result: dict[str, Any] = json.loads(json.dumps(exchange.writer.result()))
    return result


@pytest.mark.parametrize("name", TURNS)
def test_a_stream_is_as_it_was(name: str) -> None:
    check_golden(f"responses_{name}", streamed(read(stream=True), TURNS[name]))


def test_events_come_in_order_and_have_the_names_of_their_types() -> None:
    events = streamed(read(), ANSWER)
    assert all(event.name == event.data["type"] for event in events if not isinstance(event.data, str))
    found = data(events)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert [kind.removeprefix("response.") for kind in merged_kinds(event["type"] for event in found)] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_a_stream_that_ends_anywhere_is_whole(turn: str) -> None:
    for count in range(1, len(ids_of(turn)) + 1):
        events = data(streamed(read(max_output_tokens=count), turn))
        last = events[-1]
        assert last["type"] in ("response.completed", "response.incomplete")
        assert last["response"]["usage"]["output_tokens"] == count
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert done == last["response"]["output"]
        added = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
        assert added == [item["id"] for item in done]
        for item in done:
            mine = [event for event in events if event.get("item_id") == item["id"]]
            text = "".join(event["delta"] for event in mine if event["type"].endswith(".delta"))
            content = item["content"][0]["text"] if "content" in item else item.get("arguments", item.get("input"))
            assert text == content


def test_each_event_of_an_item_names_it_and_its_place() -> None:
    for event in data(streamed(read(), CALL)):
        if "item_id" in event:
            assert isinstance(event["output_index"], int)
        if event["type"] in _ITEM_ENDS:
            assert event["item"]["status"] == ("in_progress" if event["type"].endswith("added") else "completed")


def test_a_call_to_a_tool_that_takes_text_has_its_text() -> None:
    *_, call = whole(TEXT_CALL)["output"]
    assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", "apply_patch", PATCH)


def test_a_call_into_a_namespace_names_it() -> None:
    *_, call = whole(SPACE_CALL)["output"]
    assert (call["type"], call["namespace"], call["name"], call["arguments"]) == (
        "function_call",
        "files",
        "read",
        "{}",
    )


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_the_output_can_be_sent_back(turn: str) -> None:
    output = whole(turn)["output"]
    results = [
        {"type": f"{item['type']}_output", "call_id": item["call_id"], "output": "done"}
        for item in output
        if "call_id" in item
    ]
    text = prompt(input=[{"role": "user", "content": "Hi"}, *output, *results])
    if results:
        assert "Grüße 🙂!" in text
        assert text.endswith("<|channel|>commentary<|message|>done<|end|><|start|>assistant")
        assert turn[turn.index(" to=functions.") :].partition("<|message|>")[2].removesuffix("<|call|>") in text
    else:
        assert "Hello 🙂, you" in text


def test_an_image_in_a_result_is_left_out_and_the_model_is_told() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "get-weather", "arguments": "{}"}
    parts = [{"type": "input_image", "image_url": "data:"}, {"type": "input_text", "text": "A map."}]
    text = prompt(input=[call, {"type": "function_call_output", "call_id": "c", "output": parts}])
    assert "is left out.]\nA map.<|end|>" in text


def test_a_limit_makes_the_response_incomplete() -> None:
    answer = whole(ANSWER, max_output_tokens=12)
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}


def test_usage_has_the_details() -> None:
    usage = whole(ANSWER)["usage"]
    assert usage["output_tokens"] == len(ids_of(ANSWER))
    assert usage["output_tokens_details"]["reasoning_tokens"] == len(ids_of(ANSWER.partition("<|start|>")[0]))
    assert usage["input_tokens_details"]["cached_tokens"] == 0


def test_a_failure_ends_the_stream() -> None:
    writer = read().writer
    (event,) = writer.fail(context_exceeded(5000, 4096))
    assert not isinstance(event.data, str)
    assert event.name == "response.failed"
    assert event.data["response"]["error"]["code"] == "context_length_exceeded"
    assert event.data["response"]["status"] == "failed"


def test_a_response_is_continued_by_its_id() -> None:
    store = ResponseStore()
    exchange = read(store=store, instructions="Be kind.")
    for event in run(exchange, ANSWER):
        exchange.writer.feed(event)
    id_ = exchange.writer.result()["id"]
    text = prompt(store=store, previous_response_id=id_, input="More")
    assert "Be kind." not in text
    assert text.index("Hello 🙂, you") < text.index("More")


def test_a_response_that_is_not_stored_is_not_found() -> None:
    store = ResponseStore()
    exchange = read(store=store, stream=True)
    unstored = read_responses(body(input="Hi", store=False), SERVED, store)
    for event in run(unstored, ANSWER):
        unstored.writer.feed(event)
    for id_ in (unstored.writer.result()["id"], "resp_x"):
        with pytest.raises(ApiError) as caught:
            read(store=store, previous_response_id=id_)
        assert caught.value.code == "previous_response_not_found"
    assert exchange.stream


def test_the_oldest_response_is_dropped() -> None:
    store = ResponseStore()
    for number in range(MOST_RESPONSES + 1):
        store.add(str(number), [number])
    assert store.items(str(MOST_RESPONSES)) == [MOST_RESPONSES]
    with pytest.raises(ApiError):
        store.items("0")


def test_the_grammar_of_a_tool_that_takes_text_is_in_its_description() -> None:
    text = prompt()
    assert "// Patch.\n// \n// The input must match this grammar:\n// x\ntype my_apply_patch = (_: {" in text
    assert "type files__read = () => any;" in text
    assert "web_search" not in text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": ""}]}, "input[0]"),
        ({"background": True}, "background"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read(**fields)
    assert (caught.value.param, caught.value.status) == (param, 400)
