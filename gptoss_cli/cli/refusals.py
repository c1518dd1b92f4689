"""Sentences for values that an option does not take. Typer's own name the types of its parser library."""

import re
from collections.abc import Sequence
from typing import Any

import typer

# Names of choices, for options that are not called by the name of their choices.
_NOUNS = {
    "color": "color mode",
    "reasoning": "reasoning display",
    "dense": "format of dense weights",
    "activations": "format of activations",
}


def option_name(parameter: Any) -> str:
    """Return the long flag of an option, or the name of an argument."""
    flags: list[str] = parameter.opts
    return max(flags, key=len)


def refusal(exc: typer.BadParameter, name: str, value: object = None, *, verb: str) -> str:
    """Return the sentence that says which values the parameter takes, without a final full stop.

    `name` is the option, variable or setting that has the value; `verb` follows it. `value` is the value of config.toml
    if it comes from there.
    """
    assert exc.param is not None
    errors = getattr(exc.__cause__, "errors", None)  # of pydantic, which nothing else here imports
    if errors is None:
        return f"{name}: {exc.message.rstrip('.')}"
    if value is None:
        value = errors()[0]["input"]
    descriptor = exc.param.type_descriptor
    if descriptor.choices is not None:
        own_name = option_name(exc.param).removeprefix("--")
        origin = "" if name in (option_name(exc.param), own_name) else f"{name}: "
        noun = _NOUNS.get(own_name, own_name)
        return f"{origin}There is no {noun} {value!r}. Choose {alternatives([str(c) for c in descriptor.choices])}"
    kind = "true or false" if descriptor.annotation is bool else _number(descriptor)
    return f"{name} {verb} {kind}, not {_shown(value)}"


def _number(descriptor: Any) -> str:
    info = descriptor.parameter_info
    kind = "a whole number" if descriptor.annotation is int else "a number"
    if info.min is None:
        return kind
    if info.max is None:
        return f"{kind}, at least {_plain(info.min)}"
    return f"{kind} from {_plain(info.min)} to {_plain(info.max)}"


def _plain(limit: float) -> str:
    return str(int(limit)) if limit == int(limit) else str(limit)


def _shown(value: object) -> str:
    if not isinstance(value, str):
        return str(value).lower()  # a value of TOML: true, nan, 1.5
    return value if re.fullmatch(r"[\w.+-]+", value) else repr(value)


def alternatives(choices: Sequence[str]) -> str:
    """Return the choices as words: low, medium or high."""
    *others, last = choices
    return f"{', '.join(others)} or {last}"
