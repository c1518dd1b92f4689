"""Values of options that are typed as text: sizes, dates, devices."""

import datetime
import re

import typer

from gptoss_cli.settings import DEVICE_PATTERN

_LARGEST_SIZE_BYTES = 1 << 50
_UNITS: dict[str, int] = {
    "b": 1,
    **{unit + "ib": 1 << shift for unit, shift in (("k", 10), ("m", 20), ("g", 30), ("t", 40))},
    **{unit + "b": 10**power for unit, power in (("k", 3), ("m", 6), ("g", 9), ("t", 12))},
    **{unit: 1 << shift for unit, shift in (("k", 10), ("m", 20), ("g", 30), ("t", 40))},
}


def parse_size(text: str) -> int:
    """Return the bytes of 24GiB, 24G (the same), 24GB (10^9) or 0. Raises typer.BadParameter."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)", text.strip())
    number, unit = (float(match[1]), match[2].lower()) if match else (0.0, "?")
    if number == 0 and unit in ("", *_UNITS):
        return 0
    if unit not in _UNITS or number * _UNITS[unit] > _LARGEST_SIZE_BYTES:
        raise typer.BadParameter(f"{text!r} is not a size. Write one like 24GiB, or 0")
    return round(number * _UNITS[unit])


def parse_date(text: str) -> datetime.date:
    """Return the date that is written as 2025-08-05. Raises typer.BadParameter."""
    try:
        return datetime.date.fromisoformat(text.strip())
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r} is not a date. Write one like 2025-08-05") from exc


def parse_device(text: str) -> str:
    """Return the name of a device. Raises typer.BadParameter."""
    if not re.fullmatch(DEVICE_PATTERN, text):
        raise typer.BadParameter(f"{text!r} is not a device. Choose auto, cpu, cuda, cuda:N or mps")
    return text
