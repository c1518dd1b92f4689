"""Values of options that Typer need not coerce become what it would make of them."""

from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.core import TyperCommand

from gptoss_cli.cli.coercion import LightCoercion
from gptoss_cli.cli.definition import PROGRAM
from gptoss_cli.errors import UsageError

_PARAMETERS = [
    parameter for command in ("chat", "ask", "bench", "download") for parameter in PROGRAM.commands[command].params
]
_TEXTS = st.one_of(
    st.sampled_from(["", "low", "LOW", "auto", "1", "-1", "0.5", "1e3", "1_000", " 7 ", "nan", "inf", "-inf", "true"]),
    st.integers().map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)


def _outcome(coerce: Any, value: object, parameter: Any) -> object:
    try:
        made = coerce(value, param=parameter, ctx=typer.Context(TyperCommand(None)))
    except typer.BadParameter as exc:
        return exc.message
    except UsageError as exc:  # of our own parsers
        return str(exc)
    return repr(made)


@given(parameter=st.sampled_from(_PARAMETERS), text=_TEXTS, is_missing=st.booleans())
def test_a_value_is_what_typer_makes_of_it(parameter: Any, text: str, is_missing: bool) -> None:
    is_list = parameter.multiple or parameter.nargs == -1
    value = None if is_missing else (text, text) if is_list else text
    typers = type(parameter).get_runtime_param(parameter)
    light = parameter.get_runtime_param()
    assert isinstance(light, LightCoercion)
    assert _outcome(light.coerce, value, parameter) == _outcome(typers.coerce, value, parameter)


@pytest.mark.parametrize("parameter", _PARAMETERS, ids=lambda each: each.name)
def test_a_default_is_what_typer_makes_of_it(parameter: Any) -> None:
    default = parameter.default() if callable(parameter.default) else parameter.default
    typers, light = type(parameter).get_runtime_param(parameter), parameter.get_runtime_param()
    assert _outcome(light.coerce, default, parameter) == _outcome(typers.coerce, default, parameter)
