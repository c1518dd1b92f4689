"""A plot in text: points with vertical intervals. Letters and box drawing only, so that it needs no colour."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gptoss_cli.terminal.cells import Line, Span

_ROWS: Final = 6  # above the axis
_LABEL_COLUMNS: Final = 5
_MOST_COLUMNS: Final = 72


@dataclass(frozen=True, slots=True)
class Point:
    """A point with a mark of one letter. `y`, `low` and `high` are shares from 0 to 1."""

    mark: str
    x: float
    y: float
    low: float
    high: float


def plot_lines(y_title: str, x_title: str, points: Sequence[Point], columns: int) -> list[Line]:
    """Return a plot of at least one point, at most `columns` wide: y from 0% to 100%, x from 0 on, linear.

    Marks are drawn over intervals, and points at one column beside each other.
    """
    width = max(len(points) + 1, min(columns, _MOST_COLUMNS) - _LABEL_COLUMNS - 1)
    largest = max((point.x for point in points), default=0) or 1.0
    cells = [[" "] * width for _ in range(_ROWS)]
    taken: set[int] = set()
    for point in sorted(points, key=lambda point: point.x):
        column = min(width - 1, round(point.x / largest * (width - 1)))
        while column in taken:
            column = column + 1 if column + 1 < width else min(set(range(width)) - taken)
        taken.add(column)
        for row in range(_row(point.high), _row(point.low) + 1):
            cells[row][column] = "│"
        cells[_row(point.y)][column] = point.mark
    labels = {0: "100%", _ROWS - 1: "0%"}
    lines = [[Span(f"{y_title} against {x_title}")]]
    for row, line in enumerate(cells):
        lines.append([Span(f"{labels.get(row, ''):>{_LABEL_COLUMNS}}│{''.join(line)}".rstrip())])
    lines.append([Span(f"{'':>{_LABEL_COLUMNS}}└{'─' * width}")])
    end = _number(largest)
    lines.append([Span(f"{'':>{_LABEL_COLUMNS}} 0{end:>{max(len(end), width - 1)}}")])
    return lines


def _row(share: float) -> int:
    return round((1 - share) * (_ROWS - 1))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
