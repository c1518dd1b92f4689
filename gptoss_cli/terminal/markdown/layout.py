"""Layout of leaf blocks as lines of some width. Each block is laid out independently of the others."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from markdown_it.token import Token

from gptoss_cli.terminal.cells import Line, Role, Span, cells, text_of, widest_word, wrap
from gptoss_cli.terminal.markdown.highlight import highlight
from gptoss_cli.terminal.markdown.parse import Kind, LeafBlock
from gptoss_cli.terminal.sanitize import neutralize

_MIN_COLUMNS = 8
# A column is at least as wide as its longest word, and as this unless its cells are shorter.
_MIN_CELL_COLUMNS = 10
_LONGEST_RULE = 60
_SEPARATED = (Kind.HEADING, Kind.CODE, Kind.TABLE, Kind.THEMATIC_BREAK)
_INLINE_ROLES = {"strong": Role.STRONG, "em": Role.EMPHASIS, "s": Role.STRUCK, "code": Role.CODE, "": Role.PLAIN}
_COLUMN_GAP = Span(" │ ", Role.MARK)


def lay_out(block: LeafBlock, columns: int) -> list[Line]:
    """Return the lines of `block` in `columns`. Lines of code may be wider; the terminal wraps them."""
    prefix_columns = max(cells(text_of(block.first_prefix)), cells(text_of(block.prefix)))
    # Lines of deeply nested blocks may be wider too.
    width = max(columns - prefix_columns, _MIN_COLUMNS)
    lines = list(_contents(block, width))
    return [(block.prefix if number else block.first_prefix) + line for number, line in enumerate(lines)]


def are_separated(before: LeafBlock, after: LeafBlock, *, blank: bool) -> bool:
    """Return True if there is an empty line between two blocks. `blank`: there is one in the source."""
    return blank or before.kind in _SEPARATED or after.kind in _SEPARATED


def blank_line(before: LeafBlock, after: LeafBlock) -> Line:
    """Return the empty line between two blocks, with the bars of the quotes that contain both."""
    common: Line = []
    for left, right in zip(before.prefix, after.prefix, strict=False):
        if left != right:
            break
        common.append(left)
    while common and not common[-1].text.strip():
        common.pop()
    return common


def _contents(block: LeafBlock, width: int) -> Iterator[Line]:
    match block.kind:
        case Kind.PARAGRAPH:
            yield from wrap(inline(block.inline), width)
        case Kind.HEADING:
            yield from wrap(inline(block.inline, Role.TITLE if block.level == 1 else Role.HEADING), width)
        case Kind.CODE:
            yield from code_label(block)
            # The marker of a list item needs a line, even if there is no code.
            needs_line = block.in_container and not code_label(block)
            lines = block.code.removesuffix("\n").split("\n") if block.code or needs_line else []
            yield from highlight(lines, block.language)
        case Kind.THEMATIC_BREAK:
            yield [Span("─" * min(width, _LONGEST_RULE), Role.MARK)]
        case Kind.TABLE:
            yield from _table(block, width)
        case Kind.EMPTY_ITEM:
            yield []


def code_label(block: LeafBlock) -> list[Line]:
    """Return the line above code with what its fence says, such as its language; none if that is nothing."""
    return [[Span(f"── {_clean(block.language)}", Role.MARK)]] if block.language else []


def inline(tokens: Sequence[Token], role: str = Role.PLAIN) -> Line:
    """Return inline content as styled text. Links are followed by their addresses."""
    spans: Line = []
    styles = [str(role)]
    links: list[tuple[str, int]] = []
    for token in tokens:
        match token.type:
            case "text" | "text_special":
                spans.append(Span(_clean(token.content), _sgr(*styles)))
            case "code_inline":
                spans.append(Span(_clean(token.content), _sgr(*styles, Role.CODE)))
            case "formula":
                spans.append(Span(neutralize(token.content).replace("\t", " "), _sgr(*styles)))
            case "softbreak" | "hardbreak":
                spans.append(Span("\n"))
            case "link_open":
                address = _clean(f"{token.attrs.get('href', '')} {token.attrs.get('title', '')}".rstrip())
                links.append((address, len(spans)))
            case "link_close" if links:
                address, start = links.pop()
                spans += _address(address, text_of(spans[start:]), _sgr(*styles, Role.LINK))
            case kind if kind.endswith("_open"):
                styles.append(_INLINE_ROLES[token.tag])
            case kind if kind.endswith("_close"):
                styles.pop()
    return spans


def _address(address: str, text: str, sgr: str) -> Line:
    """Return the text after a link: its address, unless that is the text of the link."""
    if address in (text, f"mailto:{text}"):
        return []
    return [Span(f" ({address})" if text else address, sgr)]


def _sgr(*styles: str) -> str:
    return ";".join(filter(None, styles))


def _clean(text: str) -> str:
    # Again, since an entity such as &#x202e; has become a character.
    return text if text.isprintable() else neutralize(text).replace("\n", " ").replace("\t", " ")


def _table(block: LeafBlock, width: int) -> Iterator[Line]:
    heading, *rows = [[inline(cell) for cell in row] for row in block.rows]
    columns = list(zip(heading, *rows, strict=True))
    natural = [max(1, _widest(column)) for column in columns]
    minimum = [
        max(min(size, _MIN_CELL_COLUMNS), *map(widest_word, each)) for size, each in zip(natural, columns, strict=True)
    ]
    widths = _fit(natural, minimum, width - cells(_COLUMN_GAP.text) * (len(heading) - 1))
    if widths is None:
        yield from _records(heading, rows, width)
        return
    yield from _row([_strong(cell) for cell in heading], widths, block.alignments)
    yield [Span("─┼─".join("─" * size for size in widths), Role.MARK)]
    for row in rows:
        yield from _row(row, widths, block.alignments)


def _widest(cell: Sequence[Line]) -> int:
    return max((cells(part) for line in cell for part in text_of(line).split("\n")), default=0)


def _fit(natural: Sequence[int], minimum: Sequence[int], room: int) -> list[int] | None:
    """Shrink the columns of a table to `room`, the widest first; None if they would cut words."""
    if sum(minimum) > room:
        return None

    def limited(limit: int) -> list[int]:
        return [max(least, min(size, limit)) for size, least in zip(natural, minimum, strict=True)]

    limit = bisect_right(range(max(natural) + 1), room, key=lambda each: sum(limited(each))) - 1
    widths = limited(limit)
    for i, size in enumerate(natural):
        if widths[i] == limit < size and sum(widths) < room:
            widths[i] += 1
    return widths


def _row(row: Sequence[Line], widths: Sequence[int], alignments: Sequence[str]) -> Iterator[Line]:
    columns = [wrap(cell, size) for cell, size in zip(row, widths, strict=True)]
    for number in range(max(map(len, columns))):
        line: Line = []
        for i, (column, size) in enumerate(zip(columns, widths, strict=True)):
            cell = column[number] if number < len(column) else []
            line += ([_COLUMN_GAP] if i else []) + _align(cell, size, alignments[i])
        yield _strip_end(line)


def _align(cell: Line, size: int, alignment: str) -> Line:
    free = max(0, size - cells(text_of(cell)))
    left = {"right": free, "center": free // 2}.get(alignment, 0)
    return [Span(" " * left), *cell, Span(" " * (free - left))]


def _strip_end(line: Line) -> Line:
    """Return the line without spaces at its end, which would only be copied with it."""
    while line and not line[-1].text.strip(" "):
        line = line[:-1]
    return line


def _records(heading: Sequence[Line], rows: Sequence[Sequence[Line]], width: int) -> Iterator[Line]:
    """Return a table that is too wide for the screen, with each row as a list of `heading: cell`."""
    if not rows:
        yield from wrap([span for cell in heading for span in (*cell, Span("  "))], width)
    for number, row in enumerate(rows):
        if number:
            yield []
        for name, cell in zip(heading, row, strict=True):
            yield from wrap([*_strong(name), Span(": "), *cell], width)


def _strong(cell: Line) -> Line:
    return [Span(text, f"{Role.STRONG};{sgr}" if sgr else Role.STRONG) for text, sgr in cell]
