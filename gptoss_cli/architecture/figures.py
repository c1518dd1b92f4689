"""A figure of an architecture: its group, its unit, how it is computed and printed, and its formula."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from gptoss_cli.architecture.known import Architecture
from gptoss_cli.settings import Group

Value = int | float | str | None
NONE = "-"


class Unit(StrEnum):
    """The unit of a value, which decides how it is printed."""

    TEXT = "text"
    COUNT = "count"
    RATIO = "ratio"
    PERCENT = "percent"
    BYTES = "bytes"
    MIB = "bytes, printed in MiB"
    GB = "bytes, printed in GB"
    FLOP = "operations"
    BITS = "bits"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row. `compute` takes a model and a context in tokens; None means that the model has no such thing.

    The row of a `relative` figure shows each value divided by that of the first model.
    """

    key: str
    label: str
    group: Group
    unit: Unit
    compute: Callable[[Architecture, int], Value]
    formula: str = ""
    note: str = ""
    relative: bool = False

    def values(self, models: Sequence[Architecture], context_tokens: int) -> list[Value]:
        """Return the value of each model."""
        values = [self.compute(model, context_tokens) for model in models]
        if not self.relative:
            return values
        return [_ratio(value, values[0]) for value in values]


def _ratio(value: Value, first: Value) -> Value:
    assert isinstance(value, int), "relative figures are counts"
    assert isinstance(first, int), "relative figures are counts"
    return value / first


def label(figure: Figure, context_tokens: int) -> str:
    """Return the label of a row with the context in it."""
    return figure.label.format(context=f"{context_tokens:,}")


def show(value: Value, unit: Unit) -> str:
    """Return a value as the table prints it."""
    match value, unit:
        case None, _:
            return NONE
        case str(), _:
            return value
        case _, Unit.COUNT:
            # Decimal, since a float cannot hold every number of combinations.
            return f"{value:,}" if value < 10**12 else f"{Decimal(value):.2e}".replace("e+", "e")
        case _, Unit.PERCENT:
            return f"{value:.1f} %"
        case _, Unit.BYTES:
            return f"{value:,} B"
        case _, Unit.MIB:
            return f"{value / 2**20:,.1f} MiB".replace(".0 ", " ")
        case _, Unit.GB:
            return f"{value / 1e9:.2f} GB" if value >= 10**8 else f"{value / 1e6:.2f} MB"
        case _, Unit.FLOP:
            return f"{value / 1e9:.2f} G" if value >= 10**8 else f"{value / 1e6:.2f} M"
        case _, Unit.BITS:
            return f"{value:.2f}".removesuffix(".00")
        case _:
            return f"{value:.3g}" if value < 10 else f"{value:.0f}"
