"""JSON Schemas of functions, rewritten with the few keywords that openai_harmony shows to the model.

It renders `type`, `properties`, `required`, `items`, `oneOf`, `enum` of strings, `description`, `title`, `default` and
`examples` as TypeScript, and everything else as `any`. The schemas of pydantic and of MCP servers are full of `$ref`,
`anyOf` and `allOf`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

from gptoss_cli.harmony.vocabulary import without_surrogates

# A recursive type is shown that many times within itself, then as `any`.
_DEEPEST_RECURSION: Final = 2
_DEEPEST: Final = 24
# References within references can make a small schema astronomically large.
_MOST_NODES: Final = 4_000
_KEPT: Final = ("type", "title", "description", "default", "examples", "nullable")
_TYPES: Final = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_VARIANTS: Final = ("anyOf", "oneOf")

Schema = dict[str, Any]


def simplify(schema: Mapping[str, Any]) -> Schema:
    """Return `schema` without references, `anyOf`, `allOf` and `const`. No input raises, and the result is JSON."""
    return _Simplifier(schema).schema(schema, 0)


class _Simplifier:
    """Rewrites one schema. `_open` are the references that are being inlined."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._open: list[str] = []
        self._nodes = 0

    def schema(self, schema: object, depth: int) -> Schema:
        """Return a part of the schema, simplified; {}, which is shown as `any`, for what is not a schema."""
        self._nodes += 1
        if not isinstance(schema, Mapping) or depth > _DEEPEST or self._nodes > _MOST_NODES:
            return {}
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return self._inlined(reference, schema, depth)
        if isinstance(schema.get("allOf"), Sequence):
            return self.schema(self._merged(schema, depth), depth + 1)
        simple = {key: _json(schema[key]) for key in _KEPT if key in schema}
        if isinstance(simple.get("description"), str):
            # openai_harmony comments out the first line of a description only.
            simple["description"] = "\n// ".join(simple["description"].splitlines())
        _add_values(simple, schema)
        self._add_parts(simple, schema, depth)
        for key in _VARIANTS:
            if isinstance(schema.get(key), Sequence) and "properties" not in simple:
                _add_variants(simple, [self.schema(each, depth + 1) for each in schema[key]])
        return simple

    def _inlined(self, reference: str, schema: Mapping[str, Any], depth: int) -> Schema:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        target = self._target(reference)
        if self._open.count(reference) >= _DEEPEST_RECURSION or not isinstance(target, Mapping):
            return self.schema({key: beside[key] for key in ("description", "title") if key in beside}, depth + 1)
        self._open.append(reference)
        inlined = self.schema({**target, **beside}, depth + 1)
        self._open.pop()
        return inlined

    def _target(self, reference: str) -> object:
        """Return the part of the root that a reference such as `#/$defs/Point` names, None if there is none."""
        place, _, pointer = reference.partition("#")
        target: object = self._root
        if place:
            return None
        for part in pointer.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            target = target.get(key) if isinstance(target, Mapping) else None
        return target

    def _merged(self, schema: Mapping[str, Any], depth: int) -> Schema:
        """Return `schema` and all that its `allOf` lists as one: properties united, else the first counts."""
        rest = {key: value for key, value in schema.items() if key != "allOf"}
        merged: Schema = {}
        for part in (rest, *(self.schema(each, depth + 1) for each in schema["allOf"])):
            for key, value in part.items():
                if key == "properties" and isinstance(value, Mapping):
                    earlier = merged.get(key, {})
                    merged[key] = earlier | {name: each for name, each in value.items() if name not in earlier}
                elif key == "required" and isinstance(value, Sequence):
                    merged[key] = [*merged.get(key, []), *value]
                else:
                    merged.setdefault(key, value)
        return merged

    def _add_parts(self, simple: Schema, schema: Mapping[str, Any], depth: int) -> None:
        properties = schema.get("properties")
        if isinstance(properties, Mapping):
            simple["type"] = "object"
            simple["properties"] = {
                without_surrogates(str(name)): _without_title(self.schema(each, depth + 1), str(name))
                for name, each in properties.items()
            }
            required = schema.get("required")
            if isinstance(required, Sequence):
                simple["required"] = [without_surrogates(name) for name in required if isinstance(name, str)]
        if "items" in schema and simple.get("type", "array") == "array":
            simple["type"] = "array"
            simple["items"] = self.schema(schema["items"], depth + 1)


def _add_values(simple: Schema, schema: Mapping[str, Any]) -> None:
    """Add `enum` from `enum` or `const`, with the type that openai_harmony needs beside it."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list):
        return
    types = list(dict.fromkeys(_TYPES.get(type(value), "object") for value in values))
    if types == ["string"]:
        simple |= {"type": "string", "enum": [without_surrogates(value) for value in values]}
    elif types:
        simple["type"] = types[0] if len(types) == 1 and types != ["null"] else types


def _add_variants(simple: Schema, variants: Sequence[Schema]) -> None:
    """Add alternatives to `simple`: as a list of types if each is no more than a type, else as `oneOf`."""
    types = [each.get("type") for each in variants]
    plain = all(each.keys() <= {"type", "title"} and isinstance(each.get("type"), str) for each in variants)
    if len(variants) == 1:
        simple |= {key: value for key, value in variants[0].items() if key not in simple}
    elif plain and "object" not in types and "array" not in types:
        simple["type"] = list(dict.fromkeys(types))
    elif variants:
        # "null" alone is shown as `any`, and in a list as itself.
        simple["oneOf"] = [each | {"type": ["null"]} if each.get("type") == "null" else each for each in variants]


def _without_title(schema: Schema, name: str) -> Schema:
    """Remove a title that only repeats the name of the property, as pydantic writes them."""
    title = schema.get("title")
    if isinstance(title, str) and title.replace(" ", "").lower() == name.replace("_", "").lower():
        del schema["title"]
    return schema


def _json(value: object) -> Any:
    """Return `value` as JSON that every parser reads: no NaN, no lone surrogates."""
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, Mapping):
        return {without_surrogates(str(key)): _json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float) else None
