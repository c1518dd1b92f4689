"""Cuts Markdown into leaves: blocks that hold text and no other blocks. A leaf stands for itself, wherever it was cut.

Two rules are missing on purpose: reference definitions, which could change what was printed long ago, and HTML, whose
tags would vanish. Both stay as text, so that nothing is hidden.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_block.fence import fence as parse_fence
from markdown_it.token import Token

from gptoss_cli.terminal.cells import Line, Span
from gptoss_cli.terminal.theme import Role

# The parser drops what is nested deeper than its own limit; containers end well before that.
_DEEPEST_CONTAINER = 40
_PARSERS_LIMIT = 100
_BULLETS = "•◦▪"
_BLANK = re.compile(r"[ \t>]*\Z")


class Kind(Enum):
    """What a leaf is."""

    PARAGRAPH = auto()
    HEADING = auto()
    CODE = auto()
    TABLE = auto()
    RULE = auto()
    EMPTY = auto()  # a list item that holds nothing


@dataclass(frozen=True, slots=True)
class Leaf:
    """One block of text with what stands before its first line and before the others.

    It is made of source lines `start` to `end`. `anchor` is the first line of the list item or block that can be parsed
    without what precedes it. `closed`: no later line can belong to it. `rows` are a table's, its heading first.
    """

    kind: Kind
    start: int
    end: int
    anchor: int
    first: Line
    rest: Line
    closed: bool
    contained: bool
    level: int = 0
    inline: Sequence[Token] = ()
    code: str = ""
    language: str = ""
    fence: "Fence | None" = None
    rows: Sequence[Sequence[Sequence[Token]]] = ()
    alignments: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Fence:
    """How an open code fence goes on: its marker, and the columns that are cut from each of its lines."""

    marker: str
    indent: int

    def closes(self, line: str) -> bool:
        """Whether `line` ends it."""
        text = line.strip(" ")
        own = set(text) == {self.marker[0]} and len(text) >= len(self.marker)
        return own and len(line) - len(line.lstrip(" ")) < 4

    def content(self, line: str) -> str:
        """What `line` adds to the code."""
        leading = len(line) - len(line.lstrip(" "))
        return line[min(leading, self.indent) :]


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": _PARSERS_LIMIT})
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
    """Below a depth that nobody reads, what is left of a container is one paragraph, markers and all."""
    if silent or state.level < _DEEPEST_CONTAINER:
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


def leaves(source: str) -> list[Leaf]:
    """The leaves of `source`, which holds no control characters but newlines and tabs."""
    lines = source.split("\n")
    walk = _Walk(lines)
    walk.through(_parser().parse(source))
    return walk.leaves


def is_blank(line: str) -> bool:
    """Whether the line holds nothing but a quote's own marks."""
    return _BLANK.match(line) is not None


@dataclass
class _Container:
    """A quote, a list or one of its items; an item's mark stands before its first leaf only."""

    kind: str
    start: int
    mark: Line = field(default_factory=list)
    rest: Line = field(default_factory=list)
    fresh: bool = False


class _Walk:
    def __init__(self, lines: list[str]) -> None:
        self.leaves: list[Leaf] = []
        self._lines = lines
        self._containers: list[_Container] = []

    def through(self, tokens: Sequence[Token]) -> None:
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
                    self._add(Kind.HEADING, token, ends=True, level=level, inline=tokens[i + 1].children or ())
                case "hr":
                    self._add(Kind.RULE, token, ends=True)
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
            container.mark = container.rest = [Span("│ ", Role.MARK)]
        elif token.type == "list_item_open":
            depth = sum(each.kind == "bullet_list_open" for each in self._containers) - 1
            mark = f"{token.info}{token.markup} " if token.info else f"{_BULLETS[depth % len(_BULLETS)]} "
            container.mark, container.rest = [Span(mark, Role.MARK)], [Span(" " * len(mark))]
            container.fresh = True
        self._containers.append(container)

    def _close(self) -> None:
        item = self._containers[-1]
        if item.fresh:
            self._append(Kind.EMPTY, item.start, item.start + 1, closed=False)
        self._containers.pop()

    def _add(self, kind: Kind, token: Token, *, ends: bool = False, **details: object) -> None:
        start, end = token.map or [0, 0]
        # The last element is what follows the last newline: a line only when it is not yet whole.
        closed = ends and end < len(self._lines)
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
        first = [span for each in self._containers for span in (each.mark if each.fresh else each.rest)]
        rest = [span for each in self._containers for span in each.rest]
        # A quote has no mark of its own to lose: it is always drawn by `rest`.
        for each in self._containers:
            each.fresh = False
        leaf = Leaf(
            kind=kind,
            start=start,
            end=end,
            anchor=next(self._anchors(), start),
            first=first,
            rest=rest,
            closed=closed,
            contained=bool(self._containers),
            **details,  # type: ignore[arg-type]
        )
        self.leaves.append(leaf)

    def _anchors(self) -> Iterator[int]:
        return (each.start for each in self._containers if each.kind == "list_item_open")


def code_blocks(source: str) -> list[str]:
    """The code in `source`, block by block, without a newline at the end."""
    return [leaf.code.removesuffix("\n") for leaf in leaves(source) if leaf.kind is Kind.CODE]
