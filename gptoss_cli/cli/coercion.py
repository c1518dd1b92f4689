"""Coercion of option values without pydantic, whose import by Typer takes a quarter of the time to a chat's prompt."""

from enum import Enum
from typing import Any, Final


class LightCoercion:
    """Typer's coercion of one parameter, which is asked only where the value may be wrong or needs more than a type."""

    def __init__(self, parameter: Any) -> None:
        self._typers = parameter.get_runtime_param
        self._descriptor = parameter.type_descriptor

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return `value` as the type of the parameter. Raises typer.BadParameter."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        found = _UNKNOWN if self._descriptor.parameter_info.parser else _converted(value, self._descriptor)
        return self._typers().coerce(value, param=param, ctx=ctx) if found is _UNKNOWN else found


def lightened(command: Any) -> Any:
    """Lighten all parameters of a command of Typer, and return the command."""
    for parameter in command.params:
        lighten(parameter)
    return command


def lighten(parameter: Any) -> None:
    """Let a parameter of a command do without pydantic where it can."""
    light = LightCoercion(parameter)
    parameter.get_runtime_param = lambda: light


_UNKNOWN: Final = object()


def _converted(value: Any, descriptor: Any) -> Any:
    """Return `value` as the type of the parameter, or `_UNKNOWN` if that is not clear."""
    kind = descriptor.annotation
    if kind == list[str] and isinstance(value, list | tuple) and all(type(each) is str for each in value):
        return list(value)
    # A value that is not text is a default.
    if not isinstance(kind, type) or type(value) is kind:
        return value if type(value) is kind else _UNKNOWN
    if type(value) is not str:
        return _UNKNOWN
    if issubclass(kind, Enum):
        return next((each for each in kind if each.value == value), _UNKNOWN)
    if kind in (int, float) and value.isascii():
        return _number(value, kind, descriptor.parameter_info)
    return _UNKNOWN


def _number(text: str, kind: Any, info: Any) -> Any:
    try:
        number = kind(text)
    except ValueError:
        return _UNKNOWN
    is_within = (info.min is None or info.min <= number) and (info.max is None or number <= info.max)
    return number if is_within and number - number == 0 else _UNKNOWN  # the difference of infinities is none
