"""Parsing Markdown into leaf blocks (CommonMark 0.31, section 4), each with what its container blocks put before it.

Link reference definitions and HTML are not parsed but stay text: a definition could change lines that are already
printed, and the tags of HTML would not be visible.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_block.fence import fence as parse_fence
from markdown_it.token import Token

from gptoss_cli.terminal.cells import Line, Role, Span

# markdown_it drops blocks that are nested deeper than its limit, so containers end well before that.
_MAX_CONTAINER_DEPTH = 40
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
class Fence:
    """An opening code fence: its marker, and the columns that are removed from each line of the code."""

    marker: str
    indent: int

    def closes(self, line: str) -> bool:
        """Return True if `line` is the closing fence."""
        text = line.strip(" ")
        is_fence = set(text) == {self.marker[0]} and len(text) >= len(self.marker)
        return is_fence and len(line) - len(line.lstrip(" ")) < 4

    def content(self, line: str) -> str:
        """Return the code in `line`."""
        leading = len(line) - len(line.lstrip(" "))
        return line[min(leading, self.indent) :]


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
    language: str = ""
    fence: Fence | None = None
    rows: Sequence[Sequence[Sequence[Token]]] = ()
    alignments: Sequence[str] = ()


def leaf_blocks(source: str) -> list[LeafBlock]:
    """Parse `source`, whose only control characters are newlines and tabs."""
    collector = _Collector(source.split("\n"))
    collector.collect(_parser().parse(source))
    return collector.blocks


def code_blocks(source: str) -> list[str]:
    """Return the code of each code block in `source`, without a newline at its end."""
    return [block.code.removesuffix("\n") for block in leaf_blocks(source) if block.kind is Kind.CODE]


def is_blank(line: str) -> bool:
    """Return True if the line is empty but for spaces and the markers of quotes."""
    return _BLANK.match(line) is not None


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": _MAX_NESTING})
    parser.enable(["table", "strikethrough"]).disable(["reference", "image", "html_block", "html_inline"])
    parser.block.ruler.at("fence", _fence, {"alt": ["paragraph", "reference", "blockquote", "list"]})
    parser.block.ruler.before("table", "depth", _stop_nesting)
    return parser


def _fence(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    indent = state.sCount[start]
    found = parse_fence(state, start, end, silent)
    if found and not silent:
        state.tokens[-1].meta["indent"] = indent
    return found


def _stop_nesting(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """At the depth limit, parse the rest of a container as one paragraph of its source text."""
    if silent or state.level < _MAX_CONTAINER_DEPTH:
        return False
    last = start
    while last < end and not state.isEmpty(last):
        last += 1
    state.line = last
    for kind, nesting in (("paragraph_open", 1), ("inline", 0), ("paragraph_close", -1)):
        token = state.push(kind, "p" if nesting else "", nesting)  # type: ignore[arg-type]
        token.map = [start, last]
        if not nesting:
            token.content = state.getLines(start, last, state.blkIndent, False).strip()
            token.children = []
    return True


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
                case "code_block":
                    self._add(Kind.CODE, token, code=token.content)
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
        if kind is not Kind.CODE:
            closed |= end < len(self._lines) - 1 and is_blank(self._lines[end])
        self._append(kind, start, end, closed=closed, **details)

    def _add_fence(self, token: Token) -> None:
        start, end = token.map or [0, 0]
        closed = end - start - 1 > token.content.count("\n") and end < len(self._lines)
        fence = Fence(token.markup, token.meta["indent"])
        language = next(iter(token.info.split()), "")
        self._append(Kind.CODE, start, end, closed=closed, code=token.content, language=language, fence=fence)

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
