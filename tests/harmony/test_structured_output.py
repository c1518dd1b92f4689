"""Answers match their format: one of several choices, or JSON of a schema."""

import base64
import datetime
import json
import random
import re
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from gptoss_cli.chat.session import ChatSession
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.errors import UsageError
from gptoss_cli.harmony.events import AnswerDelta, EndReason, ReasoningDelta, TurnEnd
from gptoss_cli.harmony.structured_output import OutputFormat
from gptoss_cli.harmony.vocabulary import RETURN, load_encoding, read_vocabulary, token_text
from gptoss_cli.settings import ReasoningEffort
from tests.random_generator import RandomGenerator

# All are bounded: at a high temperature a model writes digits without end if a schema allows it.
SCHEMAS: list[dict[str, Any]] = [
    {"type": "boolean"},
    {"type": "integer", "minimum": -5, "maximum": 99},
    {"enum": ["red", "green", 3, None]},
    {"type": "string", "maxLength": 12},
    {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
    {"type": "string", "format": "date"},
    {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 999}, "minItems": 1, "maxItems": 3},
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {
            "kind": {"enum": ["bug", "request"]},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        },
        "required": ["kind"],
        "additionalProperties": False,
    },
    {
        "$defs": {
            "point": {
                "type": "object",
                "properties": {"x": {"type": "integer", "minimum": -9, "maximum": 9}},
                "required": ["x"],
                "additionalProperties": False,
            }
        },
        "anyOf": [{"$ref": "#/$defs/point"}, {"type": "null"}],
    },
]


def _ids_of(mask: bytes | None) -> set[int]:
    assert mask is not None
    return {8 * i + bit for i, byte in enumerate(mask) for bit in range(8) if byte >> bit & 1}


def _encoded(text: str) -> list[int]:
    return load_encoding().encode(text, disallowed_special=())


def test_a_choice_allows_its_beginnings_and_then_only_the_end() -> None:
    matcher = OutputFormat.of_choices(["yes", "no", "yes, but"]).begin()
    first = {load_encoding().decode([token]) for token in _ids_of(matcher.mask())}
    assert {"yes", "no", "y", "n"} <= first
    assert all("yes, but".startswith(piece) or "no".startswith(piece) for piece in first)
    matcher.feed(*_encoded("yes"))
    assert RETURN in _ids_of(matcher.mask())
    matcher.feed(*_encoded(","))
    assert RETURN not in _ids_of(matcher.mask())
    matcher.feed(*_encoded(" but"))
    assert _ids_of(matcher.mask()) == {RETURN}


def test_after_text_that_does_not_match_there_is_no_mask() -> None:
    matcher = OutputFormat.of_choices(["yes", "no"]).begin()
    matcher.feed(*_encoded("maybe"))
    assert matcher.mask() is None


@pytest.mark.parametrize(
    ("schema", "text", "accepted"),
    [
        ({"type": "integer"}, "12", True),
        ({"type": "integer"}, "12.5", False),
        ({"type": "integer"}, "", False),
        ({"enum": ["ü\n"]}, '"ü\\n"', True),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}, '{"a": null}', True),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}, '{"a": null', False),
    ],
)
def test_a_complete_text_is_checked(schema: dict[str, Any], text: str, accepted: bool) -> None:
    assert OutputFormat.of_schema(schema).accepts(text) is accepted


@pytest.mark.parametrize(
    "schema", [{"type": "strang"}, {"$ref": "https://example.org/x"}, {"pattern": "(", "type": "string"}]
)
def test_an_unsupported_schema_is_a_usage_error(schema: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="The schema is not supported: "):
        OutputFormat.of_schema(schema)


@pytest.mark.parametrize("kind", ["number", "integer"])
@pytest.mark.parametrize("seed", range(3))
def test_a_number_has_at_most_15_digits_in_a_row(kind: str, seed: int) -> None:
    matcher = OutputFormat.of_schema({"type": "array", "items": {"type": kind}, "minItems": 1}).begin()
    draw = random.Random(seed)
    text = ""
    matcher.feed(*_encoded("["))
    for _ in range(60):
        allowed = {id_: token_text(id_).text for id_ in _ids_of(matcher.mask())}
        # Digits wherever they are allowed: as many at once as possible.
        digits = [id_ for id_, piece in allowed.items() if piece.isascii() and piece.isdigit()]
        chosen = draw.choice(digits or [id_ for id_, piece in sorted(allowed.items()) if "]" not in piece])
        text += allowed[chosen]
        matcher.feed(chosen)
    runs = [len(run) for run in re.findall("[0-9]+", text)]
    assert max(runs) == 15
    assert len(runs) > 3


def test_digits_in_a_string_and_a_number_that_must_be_longer_are_not_limited() -> None:
    long = "1234567890" * 3
    matcher = OutputFormat.of_schema(
        {"type": "object", "properties": {'a\\"': {"const": long}, "b": {"const": 1}}}
    ).begin()
    for token in _encoded(f'{{"a\\\\\\"": "{long}", "b": 1}}'):
        assert token in _ids_of(matcher.mask())
        matcher.feed(token)
    matcher = OutputFormat.of_schema({"type": "integer", "minimum": 10**17}).begin()
    for token in _encoded("123456789012345678"):
        assert token in _ids_of(matcher.mask())
        matcher.feed(token)


def test_no_token_has_more_than_three_digits() -> None:
    with ExitStack() as temporary:
        lines = read_vocabulary(temporary).splitlines()
    texts = (base64.b64decode(line.split()[0]) for line in lines)
    assert max(len(run) for text in texts for run in re.findall(b"[0-9]+", text)) == 3


def test_an_unknown_format_is_ignored_and_named() -> None:
    schema = {
        "type": "object",
        "properties": {
            "format": {"type": "string", "format": "binary"},
            "b": {"type": "array", "items": {"type": "string", "format": "x y"}},
            "c": {"type": "string", "format": "date"},
            "d": {"const": {"format": "binary"}},
        },
        "required": ["format", "d"],
    }
    output = OutputFormat.of_schema(schema)
    assert sorted(output.ignored_formats) == ["binary", "x y"]
    assert output.accepts('{"format": "any", "c": "2026-01-01", "d": {"format": "binary"}}')
    assert not output.accepts('{"format": "any", "c": "x", "d": {"format": "binary"}}')
    assert '"binary"' in output.description


@pytest.mark.parametrize("number", range(len(SCHEMAS)))
def test_a_model_without_sense_gives_what_the_schema_allows(number: int) -> None:
    schema = SCHEMAS[number]
    session = _session(RandomGenerator(), seed=number)
    session.settings = replace(session.settings, output=OutputFormat.of_schema(schema))
    _, answer, end = _say(session)
    assert end.reason is EndReason.COMPLETE
    jsonschema.validate(json.loads(answer), schema)


def test_the_reasoning_stays_free() -> None:
    session = _session(RandomGenerator(), seed=0)
    session.settings = replace(session.settings, output=OutputFormat.of_choices(["yes"]))
    said = []
    for seed in range(10):
        session.settings = replace(session.settings, seed=seed)
        reasoned, answer, _ = _say(session)
        said.append(reasoned)
        assert answer == "yes"
    assert any(len(set(each)) > 10 for each in said)


def test_a_form_holds_without_reasoning_and_with_free_headers() -> None:
    for seed in range(5):
        session = _session(RandomGenerator(), seed=seed, effort=ReasoningEffort.NONE, free_headers=True)
        session.settings = replace(session.settings, output=OutputFormat.of_choices(["bug", "question", "spam"]))
        _, answer, end = _say(session)
        assert (end.reason, answer in ("bug", "question", "spam")) == (EndReason.COMPLETE, True)


def _session(
    generator: RandomGenerator,
    *,
    seed: int,
    effort: ReasoningEffort = ReasoningEffort.LOW,
    free_headers: bool = False,
) -> ChatSession:
    return ChatSession(
        generator,
        instructions=None,
        effort=effort,
        date=datetime.date(2026, 1, 1),
        settings=TurnSettings(seed=seed, think_budget=40, free_headers=free_headers),
    )


def _say(session: ChatSession) -> tuple[str, str, TurnEnd]:
    said: dict[type, str] = {AnswerDelta: "", ReasoningDelta: ""}
    for event in session.turn("x"):
        if isinstance(event, AnswerDelta | ReasoningDelta):
            said[type(event)] += event.text
    assert session.last_end is not None
    return said[ReasoningDelta], said[AnswerDelta], session.last_end
