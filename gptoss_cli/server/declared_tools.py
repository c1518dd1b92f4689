"""The tools of a `/v1/responses` request: functions, namespaces of functions, and tools that take plain text."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from gptoss_cli.harmony.functions import FunctionTool
from gptoss_cli.server.fields import Fields
from gptoss_cli.server.sampling import function_tool

_LOGGER: Final = logging.getLogger(__name__)
# A tool that takes plain text is a function with this one argument.
_INPUT: Final = "input"
_INPUT_SCHEMA: Final = {"type": "object", "properties": {_INPUT: {"type": "string"}}, "required": [_INPUT]}
_NAMESPACE_SEPARATOR: Final = "__"


@dataclass(frozen=True, slots=True)
class DeclaredTool:
    """A tool as the client knows it. `takes_text` if its input is plain text and no JSON."""

    name: str
    namespace: str | None = None
    takes_text: bool = False

    @property
    def function_name(self) -> str:
        """The name of its function, unique among all namespaces."""
        return function_name(self.name, self.namespace)


class DeclaredTools:
    """The tools of a request, as functions for the model and as the client knows them."""

    def __init__(self, fields: Fields) -> None:
        """Tools of the server's side, such as web_search, are left out, and the log says so. Raises ApiError."""
        found = [each for tool in fields.objects("tools") for each in _read_tool(tool, None)]
        self.functions = [function for _, function in found]
        self._tools = {tool.function_name: tool for tool, _ in found}

    def find(self, name: str) -> DeclaredTool:
        """Return the tool of a function."""
        return self._tools.get(name) or DeclaredTool(name)


def function_name(name: str, namespace: str | None) -> str:
    """Return the name of the function of a tool."""
    return name if namespace is None else f"{namespace}{_NAMESPACE_SEPARATOR}{name}"


def text_arguments(text: str) -> str:
    """Return the arguments of a call to a tool that takes plain text."""
    return json.dumps({_INPUT: text}, ensure_ascii=False)


def plain_input(arguments: str) -> str:
    """Return the plain text of a call; the arguments as they are if they were cut off."""
    try:
        value: Any = json.loads(arguments)
    except ValueError:
        return arguments
    text = value.get(_INPUT) if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments


def _read_tool(fields: Fields, namespace: str | None) -> Iterator[tuple[DeclaredTool, FunctionTool]]:
    kind = fields.text("type")
    if kind == "function":
        function = function_tool(fields)
        tool = DeclaredTool(function.name, namespace)
        yield tool, FunctionTool(tool.function_name, function.description, function.parameters)
    elif kind == "custom":
        tool = DeclaredTool(fields.needed_text("name"), namespace, takes_text=True)
        yield tool, FunctionTool(tool.function_name, _description(fields), _INPUT_SCHEMA)
    elif kind == "namespace" and namespace is None:
        name = fields.needed_text("name")
        for inner in fields.objects("tools"):
            yield from _read_tool(inner, name)
    else:
        _warn_about(kind)


@cache
def _warn_about(kind: str | None) -> None:
    """Log a kind of tool that is left out; a client sends it with every request, and is told once."""
    _LOGGER.warning("tools of the type %r are left out: only functions can be called", kind)


def _description(fields: Fields) -> str:
    """Return the description of a tool that takes plain text, with the grammar of that text."""
    grammar = fields.inner("format")
    definition = grammar.text("definition") if grammar is not None else None
    parts = (fields.text("description"), definition and f"The input must match this grammar:\n{definition}")
    return "\n\n".join(part for part in parts if part)
