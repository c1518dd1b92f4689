"""Schemas are rewritten so that openai_harmony shows their types to the model."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_cli.harmony.functions import Functions, FunctionTool
from gptoss_cli.harmony.schemas import simplify
from tests.harmony.function_schemas import FIFTY_SCHEMAS

_NAMES = ("$ref", "anyOf", "allOf", "oneOf", "type", "properties", "items", "enum", "const", "default", "required")
_scalars = st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.sampled_from(("#", "#/a", "object"))
_anything = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner), max_leaves=15
)


def declared(parameters: Any) -> None:
    """Let openai_harmony read the declaration."""
    assert Functions([FunctionTool("f", "", parameters)]).declaration is not None


@pytest.mark.parametrize(
    ("schema", "simple"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": ["string", "null"]}),
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
        ({"const": 3}, {"type": "integer"}),
        ({"enum": ["a", None]}, {"type": ["string", "null"]}),
        ({"$ref": "#/nowhere", "description": "A"}, {"description": "A"}),
        ({"$ref": "https://example.org/schema"}, {}),
        ({"items": {"const": "a"}}, {"type": "array", "items": {"type": "string", "enum": ["a"]}}),
        ({"description": "one\ntwo"}, {"description": "one\n// two"}),
        ({"type": "string", "default": float("nan")}, {"type": "string", "default": None}),
        ({"oneOf": [{"type": "string", "pattern": "x"}]}, {"type": "string"}),
        (
            {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
            {"oneOf": [{"type": "array", "items": {"type": "string"}}, {"type": ["null"]}]},
        ),
        (
            {
                "allOf": [
                    {"properties": {"a": {"type": "string"}}, "required": ["a"]},
                    {"properties": {"b": {"title": "B", "type": "string"}}, "required": ["b"]},
                ]
            },
            {
                "type": "object",
                "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "required": ["a", "b"],
            },
        ),
    ],
)
def test_a_schema_is_rewritten(schema: Any, simple: Any) -> None:
    assert simplify(schema) == simple


def test_a_reference_is_inlined_and_keeps_what_stands_beside_it() -> None:
    schema = {
        "properties": {"at": {"$ref": "#/$defs/a~1b", "description": "Where"}},
        "$defs": {"a/b": {"type": "string", "description": "A place"}},
    }
    assert simplify(schema)["properties"] == {"at": {"type": "string", "description": "Where"}}


def test_a_recursive_type_ends_in_any() -> None:
    tree = {"type": "array", "items": {"$ref": "#"}}
    simple = simplify(tree)
    assert simple == {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": {}}}}


def test_references_that_double_at_each_level_stay_small() -> None:
    levels = {
        f"l{i}": {"properties": {"a": {"$ref": f"#/$defs/l{i + 1}"}, "b": {"$ref": f"#/$defs/l{i + 1}"}}}
        for i in range(60)
    }
    assert len(str(simplify({"$ref": "#/$defs/l0", "$defs": levels}))) < 1_000_000


@settings(max_examples=150, deadline=None)
@given(_anything)
def test_no_json_raises(schema: Any) -> None:
    declared(schema if isinstance(schema, dict) else {"properties": {"a": schema}})


@pytest.mark.parametrize("schema", FIFTY_SCHEMAS)
def test_the_schemas_of_clients_are_declared(schema: dict[str, Any]) -> None:
    declared(schema)
    text = str(simplify(schema))
    assert not any(f"'{keyword}'" in text for keyword in ("$ref", "anyOf", "allOf", "const", "$defs"))
