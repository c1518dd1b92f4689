"""A schema is taken out of its wrapper, and refused if it is none, too deep or without any finite value."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_cli.harmony.json_schema import SchemaError, checked_schema, unsupported, without_format
from gptoss_cli.harmony.structured_output import OutputFormat

INTEGER = {"type": "integer"}


@pytest.mark.parametrize(
    "wrapper",
    [
        {"name": "x", "strict": True, "schema": INTEGER},
        {"name": "x", "schema": INTEGER, "description": "A number."},
        {"schema": INTEGER},
        {"type": "json_schema", "name": "x", "schema": INTEGER},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": INTEGER}},
    ],
)
def test_a_schema_in_the_object_of_an_api_is_taken_out(wrapper: dict[str, Any]) -> None:
    assert checked_schema(wrapper) == INTEGER
    assert OutputFormat.of_schema(wrapper).accepts("12")


def test_a_schema_with_properties_of_these_names_is_no_wrapper() -> None:
    schema = {"type": "object", "properties": {"name": {}, "schema": {}}}
    assert checked_schema(schema) is schema


@pytest.mark.parametrize("schema", [{}, {"answer": 42}, {"name": "x", "strict": True}, {"schema": {}}, {"title": "x"}])
def test_an_object_without_a_keyword_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match="has no keyword of JSON Schema"):
        checked_schema(schema)


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize("levels", [120, 127, 500, 100_000])
def test_deep_nesting_is_told_as_such(levels: int) -> None:
    with pytest.raises(SchemaError, match="is nested too deeply: at most 120 levels are supported"):
        OutputFormat.of_schema(nested(levels))


def test_the_deepest_nesting_is_supported() -> None:
    assert OutputFormat.of_schema(nested(119)).accepts("[]")


DEFINED = {"type": "object", "properties": {"a": {"$ref": "#"}}}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"anyOf": [{"$ref": "#"}, {"allOf": [{"$ref": "#"}, {"type": "null"}]}]},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"oneOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
        {"$defs": {"a/~ b": {"$ref": "#/$defs/a~1~0%20b"}}, "$ref": "#/$defs/a~1~0%20b"},
        {**DEFINED, "required": ["a"]},
        {"type": "object", "required": ["x"], "additionalProperties": {"$ref": "#"}},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"type": "array", "prefixItems": [INTEGER, {"$ref": "#"}], "minItems": 2},
        {"elsewhere": [{"$ref": "#/elsewhere/0"}], "$ref": "#/elsewhere/0"},
    ],
)
def test_a_schema_without_a_finite_value_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match="refers to itself without an end"):
        checked_schema(schema)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (DEFINED, '{"a": {}}'),
        ({"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}, "minItems": 1}]}, "[null, [null]]"),
        ({"type": "array", "items": {"$ref": "#"}}, "[[], []]"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": INTEGER}, "$ref": "#/$defs/a"}, "3"),
        ({"elsewhere": INTEGER, "$ref": "#/elsewhere"}, "3"),
    ],
)
def test_a_schema_that_refers_to_itself_with_an_end_is_fine(schema: dict[str, Any], text: str) -> None:
    assert OutputFormat.of_schema(schema).accepts(text)


@pytest.mark.parametrize(
    ("reason", "complaint"),
    [
        ('Unimplemented keys: ["not"]', 'uses "not", which is not supported'),
        ('Unimplemented keys: ["if", "then"]', 'uses "if" and "then", which are not supported'),
        ('Unimplemented keys: ["a", "b", "c"]', 'uses "a", "b" and "c", which are not supported'),
        ("recursion limit exceeded at line 1", "is nested too deeply: at most 120 levels are supported"),
        ("Invalid type: fred.", "is not supported: Invalid type: fred"),
    ],
)
def test_the_reasons_of_the_library_are_said_in_plain_words(reason: str, complaint: str) -> None:
    assert unsupported(reason).complaint == complaint


schemas = st.recursive(
    st.sampled_from(
        [INTEGER, {"format": "x"}, {"$ref": "#"}, {"$ref": "#/$defs/a"}, {"enum": [{"format": "x"}]}, True]
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: {"anyOf": parts}),
        st.lists(inner, max_size=3).map(lambda parts: {"allOf": parts}),
        inner.map(lambda part: {"type": "array", "items": part, "minItems": 1}),
        inner.map(lambda part: {"type": "object", "properties": {"format": part}, "required": ["format"]}),
        inner.map(lambda part: {"$defs": {"a": part}, "type": "string", "format": "x"}),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(schemas)
def test_any_schema_is_checked_without_an_error_of_another_kind(schema: Any) -> None:
    if isinstance(schema, dict):
        try:
            assert checked_schema(schema)
        except SchemaError:
            return
        changed = without_format(schema, "x")
        assert without_format(changed, "x") == changed
