"""Amounts of memory as a user writes them."""

import re

import typer

_UNITS: dict[str, int] = {
    "b": 1,
    **{unit + "ib": 1 << shift for unit, shift in (("k", 10), ("m", 20), ("g", 30), ("t", 40))},
    **{unit + "b": 10**power for unit, power in (("k", 3), ("m", 6), ("g", 9), ("t", 12))},
    **{unit: 1 << shift for unit, shift in (("k", 10), ("m", 20), ("g", 30), ("t", 40))},
}
_LARGEST_BYTES = 1 << 50


def parse_size(text: str) -> int:
    """Bytes from 24GiB, 24G (the same), 24GB (10^9) or 0. Raises typer.BadParameter."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)", text.strip())
    number, unit = (float(match[1]), match[2].lower()) if match else (0.0, "?")
    if number == 0 and unit in ("", *_UNITS):
        return 0
    if unit not in _UNITS or number * _UNITS[unit] > _LARGEST_BYTES:
        raise typer.BadParameter(f"{text!r} is no size. Write one like 24GiB, or 0")
    return round(number * _UNITS[unit])
