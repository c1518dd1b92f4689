"""Requests of random JSON: each is read, or refused with the field's name; nothing else is raised."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_cli.server.chat_completions import read_chat
from gptoss_cli.server.completions import read_completion
from gptoss_cli.server.failures import ApiError
from gptoss_cli.server.fields import parse_body
from gptoss_cli.server.response_store import ResponseStore
from gptoss_cli.server.responses_input import read_responses
from tests.server.turns import SERVED

_WORDS = (
    *("user", "assistant", "tool", "system", "developer", "function", "custom", "namespace", "message", "reasoning"),
    *("function_call", "function_call_output", "custom_tool_call", "text", "input_text", "json_schema", "auto"),
    *("required", "none", "low", "c1", "get_weather", "python", "object", "\ud800", "", "<|end|>", "web_search"),
)
_KEYS = (
    *("role", "content", "type", "name", "text", "tool_calls", "function", "arguments", "id", "call_id", "output"),
    *("tool_call_id", "parameters", "properties", "schema", "json_schema", "format", "effort", "tools", "summary"),
    *("input", "reasoning", "description", "namespace", "$ref", "anyOf", "items"),
)
_TOP = (
    *("messages", "input", "prompt", "tools", "tool_choice", "response_format", "reasoning", "text", "stop", "seed"),
    *("temperature", "top_p", "top_k", "max_tokens", "max_output_tokens", "stream", "stream_options", "logprobs"),
    *("top_logprobs", "logit_bias", "include", "store", "instructions", "n", "metadata", "previous_response_id"),
    *("stop_token_ids", "allowed_token_ids", "reasoning_effort", "parallel_tool_calls", "user", "background"),
)
_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats()
    | st.sampled_from(_WORDS)
    | st.integers()
    | st.text(max_size=5)
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=6),
    max_leaves=25,
)
_text = st.sampled_from(_WORDS)
_loose = st.dictionaries(st.sampled_from(_KEYS), _values, max_size=4)
_message = st.builds(lambda more, *own: more | dict(zip(("role", "content"), own, strict=True)), _loose, _text, _values)
_item = st.builds(lambda more, kind: more | {"type": kind}, _loose, _text) | _message
_function = st.fixed_dictionaries({"name": _text, "parameters": _values})
_tool = st.builds(lambda one, two: {"type": "function", "function": one, **two}, _function, _function)
_fields = st.dictionaries(st.sampled_from(_TOP), _values, max_size=5)
_bodies = st.builds(
    lambda fields, given, tools: {**given, **tools, **fields},
    _fields,
    st.fixed_dictionaries(
        {"messages": st.lists(_message, max_size=3), "input": st.lists(_item, max_size=3) | _text, "prompt": _values}
    ),
    st.just({}) | st.fixed_dictionaries({"tools": st.lists(_tool, max_size=3)}),
)


def _read(kind: str, body: bytes) -> object:
    fields = parse_body(body)
    match kind:
        case "chat":
            return read_chat(fields, SERVED)
        case "responses":
            return read_responses(fields, SERVED, ResponseStore())
        case _:
            return read_completion(fields, SERVED)


def check(kind: str, body: Any) -> None:
    refused = None
    try:
        _read(kind, json.dumps(body).encode())
    except ApiError as exc:
        refused = exc
    if refused is not None:
        assert refused.status == 400
        assert json.dumps(refused.to_json())


@pytest.mark.parametrize("kind", ["chat", "responses", "completions"])
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=_bodies)
def test_random_requests_raise_nothing_else(kind: str, body: dict[str, Any]) -> None:
    check(kind, body)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["chat", "responses", "completions"])
@settings(max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=_bodies)
def test_many_random_requests_raise_nothing_else(kind: str, body: dict[str, Any]) -> None:
    check(kind, body)
