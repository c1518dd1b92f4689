"""Fifty schemas of function arguments, in the shapes that pydantic, MCP servers and people write."""

from typing import Any, Final

Schema = dict[str, Any]


def _object(required: list[str] | None = None, **properties: object) -> Schema:
    schema: Schema = {"type": "object", "properties": properties}
    return schema if required is None else schema | {"required": required}


_STRING: Final = {"type": "string", "maxLength": 12}
_DRAFT_7: Final = "http://json-schema.org/draft-07/schema#"
_NUMBERS: Final = {"type": "array", "items": {"type": "integer"}}
_POINT: Final = _object(["x", "y"], x={"type": "integer"}, y={"type": "integer"})
_NULLABLE: Final = {"anyOf": [_STRING, {"type": "null"}], "default": None, "title": "Name"}
_TREE: Final = _object(
    ["value"],
    value={"type": "integer", "title": "Value"},
    children={"type": "array", "items": {"$ref": "#/$defs/Tree"}, "maxItems": 2},
)
_PLAIN: Final = [
    _object([]),
    _object(["city"], city=_STRING),
    _object(["city"], city=_STRING, unit={"type": "string", "enum": ["celsius", "fahrenheit"]}),
    _object(["n"], n={"type": "integer", "minimum": 1, "maximum": 20}),
    _object(["n"], n={"type": "number"}),
    _object(["on"], on={"type": "boolean"}),
    _object(["nothing"], nothing={"type": "null"}),
    _object(["tags"], tags={"type": "array", "items": _STRING, "maxItems": 3}),
    _object(["tags"], tags={"type": "array", "items": _STRING, "minItems": 1, "maxItems": 2}),
    _object(["rows"], rows={"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}}),
    _object(["from", "to"], **{"from": _POINT, "to": _POINT}),
    _object(["a"], a=_object(["b"], b=_object(["c"], c=_STRING))),
    _object(["a"], a={"type": ["string", "null"], "maxLength": 8}),
    _object(["a"], a={"type": ["integer", "boolean"]}),
    _object(["id"], id={"type": "string", "pattern": "^[A-Z]{2}[0-9]{3}$"}),
    _object(["day"], day={"type": "string", "format": "date"}),
    _object(["level"], level={"enum": ["low", 2, None, True]}),
    _object(["kind"], kind={"const": "circle"}),
    _object(["env"], env={"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2}),
    _object(["env"], env={"type": "object", "properties": {}, "additionalProperties": False}),
    _object(["a"], a=_STRING) | {"additionalProperties": False},
    _object(None, a=_STRING, b={"type": "integer"}) | {"additionalProperties": False},
    _object(["größe"], größe={"type": "integer"}),
    _object(["a b"], **{"a b": {"type": "boolean"}, "c.d": {"type": "boolean"}}),
    _object(["x"], x={"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10}),
]
_PYDANTIC: Final = [
    _object(["name"], name={"title": "Name", **_STRING}) | {"title": "Arguments"},
    _object(None, name=_NULLABLE),
    _object(["point"], point={"$ref": "#/$defs/Point"}) | {"$defs": {"Point": _POINT | {"title": "Point"}}},
    _object(None, point={"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}], "default": None})
    | {"$defs": {"Point": _POINT}},
    _object(["point"], point={"allOf": [{"$ref": "#/$defs/Point"}], "description": "Where"})
    | {"$defs": {"Point": _POINT}},
    _object(["points"], points={"type": "array", "items": {"$ref": "#/$defs/Point"}, "maxItems": 2})
    | {"$defs": {"Point": _POINT}},
    _object(["colour"], colour={"$ref": "#/$defs/Colour"})
    | {"$defs": {"Colour": {"enum": ["red", "green"], "title": "Colour", "type": "string"}}},
    _object(["tree"], tree={"$ref": "#/$defs/Tree"}) | {"$defs": {"Tree": _TREE}},
    _object(["pet"], pet={"oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]})
    | {
        "$defs": {
            "Cat": _object(["kind"], kind={"const": "cat", "type": "string"}, lives={"type": "integer"}),
            "Dog": _object(["kind"], kind={"const": "dog", "type": "string"}, barks={"type": "boolean"}),
        }
    },
    _object(["value"], value={"anyOf": [{"type": "integer"}, _STRING, _NUMBERS]}),
    _object(["mode"], mode={"const": "fast", "default": "fast", "title": "Mode", "type": "string"}),
    _object(["pair"], pair={"type": "array", "prefixItems": [_POINT, _STRING], "minItems": 2, "maxItems": 2}),
    _object(["limit"], limit={"default": 10, "exclusiveMinimum": 0, "title": "Limit", "type": "integer"}),
]
_MCP: Final = [
    _object(["path"], path=_STRING) | {"$schema": _DRAFT_7, "additionalProperties": False},
    _object(
        ["path", "edits"],
        path=_STRING,
        edits={
            "type": "array",
            "maxItems": 2,
            "items": _object(["oldText", "newText"], oldText=_STRING, newText=_STRING)
            | {"additionalProperties": False},
        },
    ),
    _object(["url"], url={"type": "string", "format": "uri", "description": "URL to fetch"}),
    _object(["entities"], entities={"type": "array", "maxItems": 1, "items": _object(["name"], name=_STRING)}),
    _object(["owner", "repo"], owner=_STRING, repo=_STRING, page={"type": "number"}),
    _object(["state"], state={"type": "string", "enum": ["open", "closed", "all"], "default": "open"}),
    _object(["query"], query={"description": "Anything at all", "type": "string", "maxLength": 5}),
    _object(["node"], node={"$ref": "#/definitions/node"})
    | {"definitions": {"node": _object(["id"], id={"type": "integer"}, next={"$ref": "#/definitions/node"})}},
    _object(["sort"], sort={"allOf": [_object(["by"], by=_STRING), _object(None, up={"type": "boolean"})]}),
    _object(["dryRun"], dryRun={"type": "boolean", "default": False, "description": "Preview changes\nonly"}),
    _object(["head"], head={"type": "number"}, tail={"type": "number"}),
    _object(["when"], when={"anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer"}]}),
]
FIFTY_SCHEMAS: Final[list[Schema]] = [*_PLAIN, *_PYDANTIC, *_MCP]
assert len(FIFTY_SCHEMAS) == 50
