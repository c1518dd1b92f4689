"""Parsing Markdown into leaf blocks (CommonMark 0.31, section 4), each with what its container blocks put before it.

Link reference definitions are not parsed but stay text, since a definition could change lines that are already printed.
HTML stays text too, except for pairs of tags that only concern the look.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

from gptoss_cli.terminal.cells import Line, Role, Span
from gptoss_cli.terminal.markdown.blocks import Fence, use_block_rules
from gptoss_cli.terminal.markdown.inline import use_inline_rules

_MAX_NESTING = 100
_BULLETS = "•◦▪"
_BLANK = re.compile(r"[ \t>]*\Z")


class Kind(Enum):
    """The kind of a leaf block."""

    PARAGRAPH = auto()
    HEADING = auto()
    CODE = auto()
    TABLE = auto()
    THEMATIC_BREAK = auto()
    EMPTY_ITEM = auto()  # a list item without content


@dataclass(frozen=True, slots=True)
class LeafBlock:
    """A block that contains no other blocks, from the source lines `start` to `end`.

    `first_prefix` goes before its first line and `prefix` before the others: the bars of quotes, list markers and
    indentation. `anchor` is the first line from which it can be parsed without the lines before: that of its outermost
    list item, or its own. `closed`: no later line can belong to it. `rows` are those of a table, the heading first.
    """

    kind: Kind
    start: int
    end: int
    anchor: int
    first_prefix: Line
    prefix: Line
    closed: bool
    in_container: bool
    level: int = 0
    inline: Sequence[Token] = ()
    code: str = ""
    fence: Fence | None = None
    rows: Sequence[Sequence[Sequence[Token]]] = ()
    alignments: Sequence[str] = ()

    @property
    def language(self) -> str:
        """The text after the marker of a code fence, usually a language."""
        return self.fence.info if self.fence is not None else ""


def leaf_blocks(source: str) -> list[LeafBlock]:
    """Parse `source`, whose only control characters are newlines and tabs."""
    collector = _Collector(source.split("\n"))
    collector.collect(_parser().parse(source))
    return collector.blocks


def is_blank(line: str) -> bool:
    """Return True if the line is empty but for spaces and the markers of quotes."""
    return _BLANK.match(line) is not None


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": _MAX_NESTING})
    use_inline_rules(parser)
    parser.enable(["table", "strikethrough"]).disable(["reference", "html_block"])
    use_block_rules(parser)
    return parser


@dataclass
class _Container:
    """A container block: a quote, a list or a list item, whose marker is before its first leaf block only."""

    kind: str
    start: int
    marker: Line = field(default_factory=list)
    prefix: Line = field(default_factory=list)
    needs_marker: bool = False


class _Collector:
    """The leaf blocks of a token stream of markdown_it."""

    def __init__(self, lines: list[str]) -> None:
        self.blocks: list[LeafBlock] = []
        self._lines = lines
        self._containers: list[_Container] = []

    def collect(self, tokens: Sequence[Token]) -> None:
        rest = iter(enumerate(tokens))
        for i, token in rest:
            match token.type:
                case "blockquote_open" | "bullet_list_open" | "ordered_list_open" | "list_item_open":
                    self._open(token)
                case "blockquote_close" | "bullet_list_close" | "ordered_list_close" | "list_item_close":
                    self._close()
                case "paragraph_open":
                    self._add(Kind.PARAGRAPH, token, inline=tokens[i + 1].children or ())
                case "heading_open":
                    level = int(token.tag[1:])
                    self._add(Kind.HEADING, token, self_closing=True, level=level, inline=tokens[i + 1].children or ())
                case "hr":
                    self._add(Kind.THEMATIC_BREAK, token, self_closing=True)
                case "fence":
                    self._add_fence(token)
                case "table_open":
                    self._add_table(token, tokens, i)
                    while next(rest)[1].type != "table_close":
                        pass

    def _open(self, token: Token) -> None:
        start = (token.map or [0])[0]
        container = _Container(token.type, start)
        if token.type == "blockquote_open":
            container.prefix = [Span("│ ", Role.MARK)]
        elif token.type == "list_item_open":
            depth = sum(each.kind == "bullet_list_open" for each in self._containers) - 1
            marker = f"{token.info}{token.markup} " if token.info else f"{_BULLETS[depth % len(_BULLETS)]} "
            container.marker, container.prefix = [Span(marker, Role.MARK)], [Span(" " * len(marker))]
            container.needs_marker = True
        self._containers.append(container)

    def _close(self) -> None:
        container = self._containers[-1]
        if container.needs_marker:
            self._append(Kind.EMPTY_ITEM, container.start, container.start + 1, closed=False)
        self._containers.pop()

    def _add(self, kind: Kind, token: Token, *, self_closing: bool = False, **details: object) -> None:
        start, end = token.map or [0, 0]
        # The last line has no newline yet, so more text may follow in it.
        closed = self_closing and end < len(self._lines)
        closed |= end < len(self._lines) - 1 and is_blank(self._lines[end])
        self._append(kind, start, end, closed=closed, **details)

    def _add_fence(self, token: Token) -> None:
        start, end = token.map or [0, 0]
        closed = token.meta["is_closed"] and end < len(self._lines)
        fence: Fence = token.meta["fence"]
        self._append(Kind.CODE, start, end, closed=closed, code=token.content, fence=fence)

    def _add_table(self, token: Token, tokens: Sequence[Token], at: int) -> None:
        rows: list[list[Sequence[Token]]] = []
        alignments = []
        for each in tokens[at:]:
            if each.type == "tr_open":
                rows.append([])
            elif each.type == "inline":
                rows[-1].append(each.children or ())
            elif each.type == "th_open":
                alignments.append(str(each.attrs.get("style", "")).removeprefix("text-align:"))
            elif each.type == "table_close":
                break
        self._add(Kind.TABLE, token, rows=rows, alignments=alignments)

    def _append(self, kind: Kind, start: int, end: int, *, closed: bool, **details: object) -> None:
        containers = self._containers
        block = LeafBlock(
            kind=kind,
            start=start,
            end=end,
            anchor=next((each.start for each in containers if each.kind == "list_item_open"), start),
            first_prefix=[span for each in containers for span in (each.marker if each.needs_marker else each.prefix)],
            prefix=[span for each in containers for span in each.prefix],
            closed=closed,
            in_container=bool(containers),
            **details,  # type: ignore[arg-type]
        )
        for each in containers:
            each.needs_marker = False
        self.blocks.append(block)
