"""Checks and changes of a JSON Schema before it becomes a grammar."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

from gptoss_cli.errors import UsageError

# The parser of llguidance reads 127 levels, some of which are the grammar's own.
_DEEPEST: Final = 120
_ONE_SCHEMA: Final = (
    *("additionalProperties", "unevaluatedProperties", "propertyNames", "items", "additionalItems", "contains"),
    *("unevaluatedItems", "not", "if", "then", "else", "contentSchema"),
)
_SCHEMAS: Final = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_NAMED_SCHEMAS: Final = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
# The keywords that can refuse a value. Titles, defaults and the like are only annotations.
_KEYWORDS: Final = frozenset(
    (
        *(
            *_ONE_SCHEMA,
            *_SCHEMAS,
            *_NAMED_SCHEMAS,
            "type",
            "enum",
            "const",
            "$ref",
            "$dynamicRef",
            "dependentRequired",
        ),
        *("required", "minProperties", "maxProperties", "minItems", "maxItems", "uniqueItems", "minContains"),
        *("maxContains", "pattern", "format", "minLength", "maxLength", "contentEncoding", "contentMediaType"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    )
)
_KEYS: Final = "Unimplemented keys: "
_LONGEST_REASON: Final = 200
_WRAPPER_KEYS: Final = frozenset({"name", "strict", "schema", "description", "type"})


class SchemaError(UsageError):
    """A schema that no answer can be constrained by. `complaint` is what is wrong with it, as a predicate."""

    def __init__(self, complaint: str) -> None:
        super().__init__(f"The schema {complaint}")
        self.complaint = complaint


def too_deep() -> SchemaError:
    """Return the error about a schema that is nested too deeply."""
    return SchemaError(f"is nested too deeply: at most {_DEEPEST} levels are supported")


def checked_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema itself, taken out of an object of OpenAI's API such as {"name": ..., "schema": ...}.

    Raises SchemaError if it is nested too deeply, has no keyword, or is such that every answer would be infinite.
    """
    if _is_too_deep(schema):
        raise too_deep()
    schema = _unwrapped(schema)
    if not _KEYWORDS.intersection(schema):
        raise SchemaError('has no keyword of JSON Schema, such as "type" or "properties"')
    if not _has_finite_value(schema):
        raise SchemaError("refers to itself without an end, so no answer could match it")
    return schema


def without_format(schema: Any, name: str) -> Any:
    """Return a copy of `schema` in which no value must have the format `name`."""
    if not isinstance(schema, dict):
        return schema
    changed = {key: value for key, value in schema.items() if (key, value) != ("format", name)}
    for key, value in changed.items():
        if key in _SCHEMAS and isinstance(value, list):
            changed[key] = [without_format(each, name) for each in value]
        elif key in _NAMED_SCHEMAS and isinstance(value, dict):
            changed[key] = {own: without_format(each, name) for own, each in value.items()}
        elif key in _ONE_SCHEMA:
            changed[key] = without_format(value, name)
    return changed


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _unwrapped(schema: dict[str, Any]) -> dict[str, Any]:
    outer = schema.get("json_schema")
    if isinstance(outer, dict) and schema.get("type") == "json_schema":
        schema = outer
    inner = schema.get("schema")
    is_wrapper = _WRAPPER_KEYS.issuperset(schema) and schema.get("type") in (None, "json_schema")
    return inner if is_wrapper and isinstance(inner, dict) else schema


def _subschemas(schema: Mapping[str, Any]) -> Iterator[Any]:
    for key, value in schema.items():
        if key in _SCHEMAS and isinstance(value, list):
            yield from value
        elif key in _NAMED_SCHEMAS and isinstance(value, dict):
            yield from value.values()
        elif key in _ONE_SCHEMA:
            yield value


def _has_finite_value(root: dict[str, Any]) -> bool:
    """Return False if every value that `root` allows contains another one without an end."""
    schemas: dict[int, dict[str, Any]] = {}
    unseen: list[Any] = [root]
    while unseen:
        schema = unseen.pop()
        if isinstance(schema, dict) and id(schema) not in schemas:
            schemas[id(schema)] = schema
            unseen += _subschemas(schema)
            if isinstance(schema.get("$ref"), str):
                unseen.append(_resolved(root, schema["$ref"]))
    # The least fixed point: a schema has a finite value if that follows from schemas that have one.
    finite: set[int] = set()
    while True:
        known = len(finite)
        for number, schema in reversed(schemas.items()):
            if number not in finite and _is_finite(schema, root, finite):
                finite.add(number)
        if len(finite) == known or id(root) in finite:
            return id(root) in finite


def _is_finite(schema: dict[str, Any], root: dict[str, Any], finite: set[int]) -> bool:
    """Return True if `schema` has a finite value because those in `finite` have one."""

    def known(part: Any) -> bool:
        return not isinstance(part, dict) or id(part) in finite

    parts = list(schema.get("allOf") or ())
    if isinstance(schema.get("$ref"), str):
        parts.append(_resolved(root, schema["$ref"]))
    if not all(map(known, parts)):
        return False
    if any(isinstance(schema.get(key), list) and not any(map(known, schema[key])) for key in ("anyOf", "oneOf")):
        return False
    if "enum" in schema or "const" in schema:
        return True
    kinds = schema.get("type")
    return any(_is_finite_kind(kind, schema, finite) for kind in (kinds if isinstance(kinds, list) else [kinds]))


def _is_finite_kind(kind: object, schema: dict[str, Any], finite: set[int]) -> bool:
    needed: list[Any] = []
    if kind == "object":
        properties, others = schema.get("properties"), schema.get("additionalProperties")
        named = properties if isinstance(properties, dict) else {}
        required = schema.get("required")
        needed = [named.get(name, others) for name in required] if isinstance(required, list) else []
    elif kind == "array" and isinstance(least := schema.get("minItems"), int) and least > 0:
        first = schema.get("prefixItems")
        first = first if isinstance(first, list) else []
        needed = [*first[:least], *([schema.get("items")] if least > len(first) else [])]
    return all(not isinstance(part, dict) or id(part) in finite for part in needed)


def _resolved(root: dict[str, Any], reference: str) -> Any:
    """Return the part of `root` that a reference within it points to, None for any other."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    part: Any = root
    for step in reference.split("/")[1:]:
        step = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(part, list) and step.isdigit() and int(step) < len(part):
            part = part[int(step)]
        else:
            part = part.get(step) if isinstance(part, dict) else None
    return part


def unsupported(reason: str) -> SchemaError:
    """Return the error for the `reason` that llguidance gives."""
    if reason.startswith(_KEYS):
        keys = [json.dumps(key, ensure_ascii=False) for key in json.loads(reason.removeprefix(_KEYS))]
        used = keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])} and {keys[-1]}"
        return SchemaError(f"uses {used}, which {'is' if len(keys) == 1 else 'are'} not supported")
    if reason.startswith("recursion limit"):
        return too_deep()
    return SchemaError(f"is not supported: {' '.join(reason.split())[:_LONGEST_REASON].rstrip('.')}")
