"""Tables and pictures of architectures on stdout: text that fits the terminal, with dim cells and bars.

Everything here is given as text. Lines are as wide as the terminal at most; a table that is wider becomes one block per
column or row.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from gptoss_cli.errors import GptossError
from gptoss_cli.settings import ColorChoice
from gptoss_cli.terminal.cells import Line, Role, Span, cells, fold, style_line, text_of, wrap
from gptoss_cli.terminal.console import Console, Output
from gptoss_cli.terminal.sanitize import neutralize

_GAP = "  "
_SAME = "="
_NOTHING = "-"
_LONGEST_NAME = 24
# For a stdout that cannot write them: dashes, signs, box drawing, bars.
_ASCII = str.maketrans(
    dict(zip("–×·…│─┌┐└┘├┤┬┴┼▁▂▃▄▅▆▇█░", "-x..|-+++++++++_.-:=+*#.", strict=True)) | {"⊕": "+"}  # noqa: RUF001
)


@dataclass(frozen=True, slots=True)
class Section:
    """A group of rows: a title, and a label with a value for each model."""

    title: str
    rows: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table with a header. The columns whose index is in `left` are aligned to the left, the others to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: frozenset[int] = frozenset({0})


@dataclass(frozen=True, slots=True)
class Layer:
    """One row of a box of a diagram: a name, words about it, and its parameters."""

    name: str
    detail: str = ""
    count: str = ""


@dataclass(frozen=True, slots=True)
class Diagram:
    """A transformer: what is before the repeated block, its residual branches, and what is after it."""

    title: str
    repeat: str
    before: Sequence[Layer]
    branches: Sequence[Sequence[Layer]]
    after: Sequence[Layer]


def show_lines(lines: Iterable[Line], console: Console) -> None:
    """Write lines on stdout: with styles on a terminal that has colours, in ASCII if it cannot write more.

    Text is neutralised. Raises what Console.out raises.
    """
    colored = has_colors(console)
    for safe in _safe_lines(lines, console.stdout):
        if colored and any(span.sgr for span in safe):
            _write_painted(style_line(safe) + "\n", console)
        else:
            console.out(text_of(safe).rstrip() + "\n")


def show_lines_on_stderr(lines: Iterable[Line], console: Console) -> None:
    """Write lines on stderr as show_lines does on stdout. Failures are ignored, as in Console.err."""
    for safe in _safe_lines(lines, console.stderr):
        if console.colors and any(span.sgr for span in safe):
            with suppress(OSError):
                console.stderr.write(style_line(safe) + "\n")
        else:
            console.err(text_of(safe).rstrip() + "\n")


def _safe_lines(lines: Iterable[Line], output: Output) -> Iterator[Line]:
    """Yield lines without anything that controls a terminal, in ASCII if `output` cannot write more."""
    encoding = getattr(output.stream, "encoding", None) or "utf-8"
    is_unicode = encoding.lower().replace("-", "").startswith("utf")
    for line in lines:
        yield [Span(_safe(span.text, is_unicode), span.sgr) for span in line]


def _write_painted(text: str, console: Console) -> None:
    """Write text with codes, which Console.out would neutralise on a terminal. Raises what that raises."""
    try:
        console.stdout.write(text)
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise GptossError(f"stdout cannot be written: {exc.strerror or exc}; the output is incomplete") from exc


def has_colors(console: Console) -> bool:
    """Return True if stdout is a terminal with colours."""
    if console.color in (None, ColorChoice.AUTO):
        plain = bool(console.environment.get("NO_COLOR")) or console.environment.get("TERM") == "dumb"
    else:
        plain = console.color is ColorChoice.NEVER
    return console.stdout.is_terminal and not plain


def _safe(text: str, is_unicode: bool) -> str:
    safe = neutralize(text)
    return safe if is_unicode else safe.translate(_ASCII).encode("ascii", "replace").decode()


def comparison_lines(models: Sequence[str], sections: Sequence[Section], columns: int, *, colored: bool) -> list[Line]:
    """Return the table of `models`; cells equal to the first model's are dim, or marked with = without colours.

    If the table is wider than `columns`, each model gets a block of its own.
    """
    names = [_shortened(name) for name in models]
    mark = "" if colored or len(models) < 2 else _GAP
    labels = [label for section in sections for label, _ in section.rows]
    first = max(map(cells, labels), default=0)
    widths = [
        max(cells(name), *(cells(values[i]) for section in sections for _, values in section.rows)) + len(mark)
        for i, name in enumerate(names)
    ]
    if first + sum(len(_GAP) + width for width in widths) > columns:
        return _blocks(models, sections, columns, colored=colored)
    lines: list[Line] = [[Span(" " * first)]]
    for name, width in zip(names, widths, strict=True):
        lines[0] += [Span(_GAP), Span((name + mark).rjust(width), Role.STRONG)]
    for section in sections:
        lines += [[], [Span(section.title, Role.STRONG)]] if section.title else []
        for label, values in section.rows:
            line = [Span(_padded(label, first, left=True))]
            for i, (value, width) in enumerate(zip(values, widths, strict=True)):
                line += [Span(_GAP), _value(value, i > 0 and value == values[0], width, bool(mark))]
            lines.append(line)
    return lines


def _value(value: str, same: bool, width: int, marked: bool) -> Span:
    text = f"{value} {_SAME if same and value != _NOTHING else ' '}" if marked else value
    return Span(_padded(text, width, left=False), Role.DIM if same else Role.PLAIN)


def _blocks(models: Sequence[str], sections: Sequence[Section], columns: int, *, colored: bool) -> list[Line]:
    lines: list[Line] = []
    for i, name in enumerate(models):
        lines += [[], *fold([Span(name, Role.TITLE)], columns)] if lines else fold([Span(name, Role.TITLE)], columns)
        for section in sections:
            lines += [[Span(section.title, Role.STRONG)]] if section.title else []
            for label, values in section.rows:
                same = i > 0 and values[i] == values[0]
                value = f"{values[i]} {_SAME}" if same and values[i] != _NOTHING and not colored else values[i]
                lines += _pair(label, value, columns, Role.DIM if same else Role.PLAIN)
    return lines


def _pair(label: str, value: str, columns: int, role: Role = Role.PLAIN) -> list[Line]:
    """Return a label and a value, on one line if it fits and else on two."""
    gap = columns - 2 - cells(label) - cells(value)
    if gap >= len(_GAP):
        return [[Span(f"{_GAP}{label}"), Span(" " * gap + value, role)]]
    lines = [[Span(_GAP), *line] for line in wrap([Span(label)], columns - 2)]
    return lines + [
        [Span(" " * max(0, columns - cells(text_of(line)))), *line] for line in fold([Span(value, role)], columns)
    ]


def fits(grid: Grid, columns: int) -> bool:
    """Return True if the table is at most `columns` wide."""
    widths = _widths(grid)
    return sum(widths) + len(_GAP) * (len(widths) - 1) <= columns


def _widths(grid: Grid) -> list[int]:
    return [max(cells(row[i]) for row in (grid.header, *grid.rows)) for i in range(len(grid.header))]


def grid_lines(grid: Grid, columns: int) -> list[Line]:
    """Return a table, or a block per row if it is wider than `columns`."""
    if not fits(grid, columns):
        return _row_blocks(grid, columns)
    rows, widths = [grid.header, *grid.rows], _widths(grid)
    return [
        [
            Span(
                _GAP.join(
                    _padded(cell, width, left=i in grid.left)
                    for i, (cell, width) in enumerate(zip(row, widths, strict=True))
                ),
                Role.STRONG if number == 0 else Role.PLAIN,
            )
        ]
        for number, row in enumerate(rows)
    ]


def _row_blocks(grid: Grid, columns: int) -> list[Line]:
    lines: list[Line] = []
    for row in grid.rows:
        lines += fold([Span(row[0], Role.STRONG)], columns)
        for name, cell in zip(grid.header[1:], row[1:], strict=True):
            lines += _pair(name, cell, columns) if cell else []
    return lines


def bar(share: float, width: int) -> str:
    """Return a bar of `width` columns of which `share` (0 to 1) is filled; something at all is at least one."""
    filled = max(1 if share > 0 else 0, round(share * width))
    return "█" * filled + "░" * (width - filled)


def sparkline(values: Sequence[float]) -> str:
    """Return a character per value, its height between the smallest and the largest."""
    marks = "▁▂▃▄▅▆▇█"
    least, span = min(values), max(values) - min(values)
    return "".join(marks[round((value - least) / span * (len(marks) - 1)) if span else 0] for value in values)


def diagram_lines(diagram: Diagram, columns: int) -> list[Line]:
    """Return the picture of a transformer, from the tokens at the top to the logits, in 78 columns.

    In fewer columns only the boxes are drawn.
    """
    title = _counted(diagram.title, "parameters")
    lines = [title, *_box(diagram.before, "", "tokens")]
    lines.append(f" ┌ {diagram.repeat} ".ljust(_AXIS, "─") + "┼" + "─" * 12)
    for branch in diagram.branches:
        lines.append(" │      ┌".ljust(_AXIS, "─") + "┤")
        lines += _box(branch, " │      │ ", "")
        lines.append(" │      └".ljust(_AXIS, "─") + "⊕")
    lines.append(" └".ljust(_AXIS, "─") + "┼" + "─" * 12)
    lines += [*_box(diagram.after, "", ""), "logits".center(2 * _AXIS + 1).rstrip()]
    if columns < _DIAGRAM_COLUMNS:
        boxes_end = _AXIS + _INNER // 2 + 2
        lines = [*_wrapped(diagram.title, columns), *(line[: min(columns, boxes_end)] for line in lines[1:])]
        lines += _wrapped(f"In {_DIAGRAM_COLUMNS} columns the sizes are shown too.", columns)
    return [[Span(line, Role.STRONG if number == 0 else Role.PLAIN)] for number, line in enumerate(lines)]


def _wrapped(text: str, columns: int) -> list[str]:
    """Return `text` in lines of at most `columns`, without styles."""
    return [text_of(line) for line in wrap([Span(text)], columns)]


_AXIS = 20  # the column of the residual stream
_INNER = 18  # of a box
_DIAGRAM_COLUMNS = 78


def _box(layers: Sequence[Layer], left: str, entry: str) -> list[str]:
    """Return the lines of a box on the axis, with details and counts to its right."""
    start = _AXIS - _INNER // 2 - 1
    half = "─" * (_INNER // 2)
    lines = [entry.center(2 * _AXIS + 1).rstrip()] if entry else []
    lines.append(f"{left.ljust(start)}┌{half}┴{half}┐")
    for layer in layers:
        text = f"{left.ljust(start)}│ {layer.name.ljust(_INNER - 1)} │ {layer.detail}"
        lines.append(text.ljust(_DIAGRAM_COLUMNS - len(layer.count)) + layer.count)
    return [*lines, f"{left.ljust(start)}└{half}┬{half}┘"]


def _counted(text: str, count: str) -> str:
    return text.ljust(_DIAGRAM_COLUMNS - len(count)) + count


def _padded(text: str, width: int, *, left: bool) -> str:
    blanks = " " * max(0, width - cells(text))
    return text + blanks if left else blanks + text


def _shortened(name: str) -> str:
    return name if cells(name) <= _LONGEST_NAME else "…" + name[-(_LONGEST_NAME - 1) :]
