"""Leaves of Markdown as lines for a screen of some width. Pure; each leaf is laid out without looking at another."""

from collections.abc import Iterator, Sequence

from markdown_it.token import Token

from gptoss_cli.terminal.cells import Line, Span, cells, text_of, wrap
from gptoss_cli.terminal.markdown.highlight import color_code
from gptoss_cli.terminal.markdown.parse import Kind, Leaf
from gptoss_cli.terminal.sanitize import neutralize
from gptoss_cli.terminal.theme import Role

_NARROWEST = 8
_NARROWEST_COLUMN = 4
_APART = (Kind.HEADING, Kind.CODE, Kind.TABLE, Kind.RULE)
_INLINE_ROLES = {"strong": Role.STRONG, "em": Role.EMPHASIS, "s": Role.STRUCK}
_COLUMN_GAP = Span(" │ ", Role.MARK)


def lay_out(leaf: Leaf, columns: int) -> list[Line]:
    """The lines of `leaf` on a screen of `columns`. A line of code may be wider: the terminal breaks it."""
    prefix_columns = max(cells(text_of(leaf.first)), cells(text_of(leaf.rest)))
    # Where nesting leaves no room, lines run over: the terminal breaks them.
    width = max(columns - prefix_columns, _NARROWEST)
    lines = list(_contents(leaf, width))
    return [(leaf.rest if number else leaf.first) + line for number, line in enumerate(lines)]


def are_apart(before: Leaf, after: Leaf, *, blank: bool) -> bool:
    """Whether an empty line stands between two leaves; `blank`: the source has one there."""
    return blank or before.kind in _APART or after.kind in _APART


def blank_line(before: Leaf, after: Leaf) -> Line:
    """The empty line between two leaves, with the bar of a quote that both are in."""
    common: Line = []
    for mine, other in zip(before.rest, after.rest, strict=False):
        if mine != other:
            break
        common.append(mine)
    while common and not common[-1].text.strip():
        common.pop()
    return common


def _contents(leaf: Leaf, width: int) -> Iterator[Line]:
    match leaf.kind:
        case Kind.PARAGRAPH:
            yield from wrap(inline(leaf.inline), width)
        case Kind.HEADING:
            yield from wrap(inline(leaf.inline, Role.TITLE if leaf.level == 1 else Role.HEADING), width)
        case Kind.CODE:
            # The mark of a list item needs a line, even where there is no code.
            lines = leaf.code.removesuffix("\n").split("\n") if leaf.code or leaf.contained else []
            yield from color_code(lines, leaf.language)
        case Kind.RULE:
            yield [Span("─" * min(width, 60), Role.MARK)]
        case Kind.TABLE:
            yield from _table(leaf, width)
        case Kind.EMPTY:
            yield []


def inline(tokens: Sequence[Token], role: str = Role.PLAIN) -> Line:
    """Text with its emphasis, links with their addresses."""
    spans: Line = []
    styles = [str(role)] if role else []
    address, linked_from = "", 0
    for token in tokens:
        match token.type:
            case "text" | "text_special":
                spans.append(Span(_clean(token.content), ";".join(styles)))
            case "code_inline":
                spans.append(Span(_clean(token.content), ";".join((*styles, Role.CODE))))
            case "softbreak" | "hardbreak":
                spans.append(Span("\n"))
            case "link_open":
                address = _clean(f"{token.attrs.get('href', '')} {token.attrs.get('title', '')}".rstrip())
                linked_from = len(spans)
            case "link_close":
                spans += _address(address, text_of(spans[linked_from:]), ";".join((*styles, Role.LINK)))
            case kind if kind.endswith("_open"):
                styles.append(_INLINE_ROLES[token.tag])
            case kind if kind.endswith("_close"):
                styles.pop()
    return spans


def _address(address: str, text: str, sgr: str) -> Line:
    """What follows a link's text: its address, unless the text is just that."""
    if address in (text, f"mailto:{text}"):
        return []
    return [Span(f" ({address})" if text else address, sgr)]


def _clean(text: str) -> str:
    # Once more, since an entity such as &#x202e; is a character only now.
    return neutralize(text).replace("\n", " ").replace("\t", " ")


def _table(leaf: Leaf, width: int) -> Iterator[Line]:
    heading, *rows = [[inline(cell) for cell in row] for row in leaf.rows]
    natural = [max(_widest(row[i : i + 1]) for row in (heading, *rows)) for i in range(len(heading))]
    widths = _fit(natural, width - cells(_COLUMN_GAP.text) * (len(heading) - 1))
    if widths is None:
        yield from _records(heading, rows, width)
        return
    yield from _row([[Span(s.text, _join(Role.STRONG, s.sgr)) for s in cell] for cell in heading], widths, leaf)
    yield [Span("─┼─".join("─" * size for size in widths), Role.MARK)]
    for row in rows:
        yield from _row(row, widths, leaf)


def _widest(cell: Sequence[Line]) -> int:
    return max((cells(part) for line in cell for part in text_of(line).split("\n")), default=0)


def _fit(natural: Sequence[int], room: int) -> list[int] | None:
    """Columns for each of a table's columns, the widest cut first; None where they cannot be read side by side."""
    widths = [max(1, size) for size in natural]
    least = [min(size, _NARROWEST_COLUMN) for size in widths]
    if sum(least) > room:
        return None
    while sum(widths) > room:
        most = max(widths)
        second = max((size for size in widths if size < most), default=0)
        widest = [i for i, size in enumerate(widths) if size == most]
        cut = min(most - second, -(-(sum(widths) - room) // len(widest)))
        for i in widest:
            if sum(widths) > room:
                widths[i] = max(least[i], widths[i] - cut)
    return widths


def _row(row: Sequence[Line], widths: Sequence[int], leaf: Leaf) -> Iterator[Line]:
    columns = [wrap(cell, size) for cell, size in zip(row, widths, strict=True)]
    for number in range(max(map(len, columns))):
        line: Line = []
        for i, (column, size) in enumerate(zip(columns, widths, strict=True)):
            cell = column[number] if number < len(column) else []
            line += ([_COLUMN_GAP] if i else []) + _align(cell, size, leaf.alignments[i])
        yield _without_end(line)


def _align(cell: Line, size: int, alignment: str) -> Line:
    free = max(0, size - cells(text_of(cell)))
    left = {"right": free, "center": free // 2}.get(alignment, 0)
    return [Span(" " * left), *cell, Span(" " * (free - left))]


def _without_end(line: Line) -> Line:
    """The line without the blanks that would only be copied along."""
    while line and not line[-1].text.strip(" "):
        line = line[:-1]
    return line


def _records(heading: Sequence[Line], rows: Sequence[Sequence[Line]], width: int) -> Iterator[Line]:
    """A table too wide for the screen: each row as a list of `heading: cell`."""
    if not rows:
        yield from wrap([span for cell in heading for span in (*cell, Span("  "))], width)
    for number, row in enumerate(rows):
        if number:
            yield []
        for name, cell in zip(heading, row, strict=True):
            named = [Span(span.text, _join(Role.STRONG, span.sgr)) for span in name]
            yield from wrap([*named, Span(": "), *cell], width)


def _join(*parts: str) -> str:
    return ";".join(part for part in parts if part)
