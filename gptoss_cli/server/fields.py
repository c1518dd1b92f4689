"""Typed access to the JSON of a request. A value of the wrong type is a failure that names the field."""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from gptoss_cli.server.failures import ApiError

_LOGGER: Final = logging.getLogger(__name__)
_LONGEST_LOGGED: Final = 40
_MOST_LOGGED: Final = 256


def parse_body(body: bytes) -> "Fields":
    """Return the object that a request consists of. Raises ApiError for anything else."""
    try:
        value = json.loads(body, parse_constant=_refuse_number, parse_float=_finite)
    except (ValueError, RecursionError) as exc:
        reason = "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)
        raise ApiError(f"The body is not valid JSON: {reason}", code="invalid_json") from exc
    return Fields(value)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_number(text)


def _refuse_number(text: str) -> float:
    # Parts of a request are repeated in the response, which could not be written.
    raise ValueError(f"{text[:_LONGEST_LOGGED]} is no number of JSON")


@lru_cache(maxsize=_MOST_LOGGED)
def _log_unused(name: str) -> None:
    _LOGGER.warning("the field %r of a request is not supported, and is ignored", name)


class Fields:
    """An object of a request. `path` says where it stands, such as `messages[0]`. A field that is null is missing."""

    def __init__(self, value: object, path: str = "") -> None:
        """Raises ApiError if `value` is no object."""
        self.path = path
        if not isinstance(value, Mapping):
            raise self.wrong("", "must be an object")
        self.values: Mapping[str, Any] = value
        self._used = set[str]()

    def wrong(self, name: str, problem: str, *, code: str | None = "invalid_value") -> ApiError:
        """Return the failure for the field `name`, or for the whole object."""
        place = ".".join(part for part in (self.path, name) if part)
        return ApiError(f"{place or 'The body'} {problem}", param=place or None, code=code)

    def get(self, name: str) -> Any:
        """Return the value of a field, None if it is missing."""
        self._used.add(name)
        return self.values.get(name)

    def text(self, name: str) -> str | None:
        """Return a string."""
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, "must be a string")
        return value

    def needed_text(self, name: str) -> str:
        """Return a string that must be there."""
        value = self.text(name)
        if value is None:
            raise self.wrong(name, "is missing", code="missing_required_parameter")
        return value

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a Boolean."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "must be true or false")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """Return a number from `low` to `high`."""
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.wrong(name, f"must be a number from {low:g} to {high:g}")
        return float(value)

    def integer(self, name: str, low: int, high: int) -> int | None:
        """Return an integer from `low` to `high`."""
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(name, f"must be an integer from {low} to {high}")
        return value

    def inner(self, name: str) -> "Fields | None":
        """Return an object."""
        value = self.get(name)
        return None if value is None else Fields(value, self._place(name))

    def objects(self, name: str) -> "Iterator[Fields]":
        """Yield the objects of a list; none if it is missing."""
        for index, value in enumerate(self.items(name)):
            yield Fields(value, f"{self._place(name)}[{index}]")

    def items(self, name: str) -> list[Any]:
        """Return a list, [] if it is missing."""
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(name, "must be a list")
        return value

    def log_unused(self, harmless: frozenset[str]) -> None:
        """Log the fields that nobody asked for, each once, except `harmless` ones."""
        for name in self.values.keys() - self._used - harmless:
            if len(name) <= _LONGEST_LOGGED:
                _log_unused(name)

    def _place(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name
