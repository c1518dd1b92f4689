"""Block rules that deviate from CommonMark where models do: fences, formulas of several lines, cells, indented code.

Each rule decides from the lines so far, never from those that follow, so that a text may arrive in any pieces.
"""

import re
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_block.list import list_block as parse_list
from markdown_it.rules_block.table import table as parse_table
from markdown_it.token import Token

from gptoss_cli.terminal.markdown.inline import FORMULA_CLOSERS

# markdown_it drops blocks that are nested deeper than its limit, so containers end well before that.
_MAX_CONTAINER_DEPTH = 40
_FENCE = re.compile(r"(`{3,}|~{3,})(.*)\Z", re.DOTALL)
_MARKDOWN = re.compile(r"(?:markdown|md|mdx)\b", re.IGNORECASE)
_UNDERLINE = re.compile(r"(=|-)\1*[ \t]*\Z")
_TAB_COLUMNS = 4
_FORMULA_START = re.compile(r"\\\[|\$\$|\\begin\{(\w+\*?)\}")
# Pipes that do not separate cells: in code and in formulas.
_CELL = re.compile(r"(?:(`+)(?!`).+?(?<!`)\1(?!`)|\\\(.+?\\\)|\$[^\s$](?:[^$]*[^\s$])?\$(?!\d)|\\.|[^|])*")


@dataclass(frozen=True, slots=True)
class Fence:
    """An opening code fence: its marker, the columns before it, and the text after it.

    Code in Markdown may contain shorter fences and, where its language is Markdown, fences of the same length.
    """

    marker: str
    indent: int
    info: str = ""

    def depth_after(self, line: str, indent: int, depth: int) -> int:
        """Return how many fences are open after a line within this one; 0 if it closes this one.

        `line` has no blanks at its beginning; `indent` are the columns of those. `depth` are open before it.
        """
        match = _FENCE.match(line)
        if match is None or match[1][0] != self.marker[0] or len(match[1]) < len(self.marker):
            return depth
        # Code may show an indented fence, for example in a docstring.
        if indent > self.indent + 3:
            return depth
        info = match[2].strip()
        if not info:
            return depth - 1
        nests = _MARKDOWN.match(self.info) is not None and "`" not in info
        return depth + 1 if nests else depth

    def code_indent(self, first: str) -> int:
        """Return the columns that are removed from each line of the code, whose first line is `first`.

        Code that stands left of its fence keeps its shape.
        """
        return min(self.indent, leading_columns(first)) if first.strip(" \t") else self.indent


def without_indent(line: str, columns: int) -> str:
    """Return `line` without its first `columns`, as far as they are blank."""
    column = 0
    for at, character in enumerate(line):
        if column >= columns or character not in " \t":
            return " " * (column - columns) + line[at:]
        column += _TAB_COLUMNS - column % _TAB_COLUMNS if character == "\t" else 1
    return " " * (column - columns)


def leading_columns(line: str) -> int:
    """Return the columns of the blanks at the beginning of `line`."""
    blanks = line[: len(line) - len(line.lstrip(" \t"))]
    return len(blanks.expandtabs(_TAB_COLUMNS))


def use_block_rules(parser: MarkdownIt) -> None:
    """Replace the rules of `parser` that deviate."""
    ruler = parser.block.ruler
    parser.disable(["code", "lheading"])
    ruler.at("fence", _fence, {"alt": ["paragraph", "reference", "blockquote", "list"]})
    ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
    ruler.at("list", _list, {"alt": ["paragraph", "reference", "blockquote"]})
    ruler.at("paragraph", _paragraph)
    ruler.before("table", "depth", _stop_nesting)


def _fence(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Parse a fence. Lines with less indentation than its list item belong to the code too, up to the closing fence."""
    match = _FENCE.match(_line(state, start))
    if match is None or (match[1][0] == "`" and "`" in match[2]):
        return False
    if silent:
        return True
    fence = Fence(match[1], state.sCount[start], match[2].strip())
    line, depth = start + 1, 1
    # A line without the marker of its quote is not in the quote.
    while line < end and state.sCount[line] >= 0:
        depth = fence.depth_after(_line(state, line), state.sCount[line], depth)
        if not depth:
            break
        line += 1
    token = state.push("fence", "code", 0)
    token.info, token.markup = match[2], match[1]
    has_first = line > start + 1 and not state.isEmpty(start + 1)
    indent = min(fence.indent, state.sCount[start + 1]) if has_first else fence.indent
    token.content = state.getLines(start + 1, line, indent, True)
    token.meta |= {"fence": fence, "is_closed": not depth}
    state.line = line if depth else line + 1
    token.map = [start, state.line]
    return True


def _list(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Parse a list, also one with so much indentation that it could be code or continue a paragraph."""
    indent, state.listIndent = state.listIndent, -1
    found = parse_list(state, start, end, silent)
    state.listIndent = indent
    return found


def _paragraph(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Parse a paragraph, or a heading with a line below it.

    Another block may begin in a paragraph at any indentation, but not in an open formula.
    """
    rules = state.md.block.ruler.getRules("paragraph")
    end = state.lineMax
    before, state.parentType = state.parentType, "paragraph"
    closer = _open_formula(_line(state, start), None)
    line = start + 1
    tag = ""
    while line < end and not state.isEmpty(line):
        text = _line(state, line)
        # Lines without an indentation continue a quote without its marker, which the quote has checked.
        if state.sCount[line] >= 0:
            if closer is None and (tag := _heading_tag(state, line, text)):
                break
            if any(rule(state, line, end, True) for rule in ([_fence] if closer else rules)):
                break
        closer = _open_formula(text, closer)
        line += 1
    state.parentType = before
    _push_text(state, start, line, tag=tag)
    return True


def _heading_tag(state: StateBlock, line: int, text: str) -> str:
    """Return the tag of the heading that a line below it makes of a paragraph, or an empty text."""
    match = _UNDERLINE.match(text)
    if match is None or not 0 <= state.sCount[line] - state.blkIndent <= 3:
        return ""
    return "h1" if match[1] == "=" else "h2"


def _push_text(state: StateBlock, start: int, end: int, *, tag: str = "") -> None:
    """Add the lines as a paragraph, or as a heading that has one line more."""
    kind = "heading" if tag else "paragraph"
    state.line = end + 1 if tag else end
    state.push(f"{kind}_open", tag or "p", 1).map = [start, state.line]
    token = state.push("inline", "", 0)
    token.map, token.children = [start, end], []
    token.content = state.getLines(start, end, state.blkIndent, False).strip(" \t\n")
    state.push(f"{kind}_close", tag or "p", -1)


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Parse a table. No cell is dropped from a row with too many of them."""
    count = len(state.tokens)
    if not parse_table(state, start, end, silent):
        return False
    tokens = state.tokens[count:]
    columns = sum(token.type == "th_open" for token in tokens)
    rows = [i for i, token in enumerate(tokens) if token.type == "tr_open"][1:]
    for i in rows:
        number = (tokens[i].map or [start])[0]
        text = _line(state, number).rstrip()
        if text.count("|") >= columns:
            _fill_row(tokens[i + 2 : i + 1 + 3 * columns : 3], text)
    return True


def _fill_row(cells: list[Token], row: str) -> None:
    """Set the text of `cells` from `row` if the simple split at each pipe has found too many."""
    inner = row.removeprefix("|")
    inner = inner[:-1] if inner.endswith("|") and not inner.endswith("\\|") else inner
    if len(re.split(r"(?<!\\)\|", inner)) <= len(cells):
        return
    found: list[str] = []
    at = 0
    while at <= len(inner):
        match = _CELL.match(inner, at)
        assert match is not None
        found.append(match[0].replace("\\|", "|").strip())
        at = match.end() + 1
    found[len(cells) - 1 :] = [" | ".join(found[len(cells) - 1 :])]
    for cell, text in zip(cells, found, strict=False):
        cell.content = text
    for cell in cells[len(found) :]:
        cell.content = ""


def _stop_nesting(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """At the depth limit, parse the rest of a container as one paragraph of its source text."""
    if silent or state.level < _MAX_CONTAINER_DEPTH:
        return False
    last = start
    while last < end and not state.isEmpty(last):
        last += 1
    _push_text(state, start, last)
    return True


def _open_formula(line: str, closer: str | None) -> str | None:
    """Return the text that ends the formula which is open after `line`; `closer` is that before it."""
    if closer is not None:
        return None if closer in line else closer
    line = line.rstrip()
    match = _FORMULA_START.match(line)
    if match is not None:
        closer = FORMULA_CLOSERS.get(match[0], f"\\end{{{match[1]}}}")
        return None if closer in line[match.end() :] else closer
    return FORMULA_CLOSERS["\\["] if line.endswith((" \\[", ":\\[")) else None


def _line(state: StateBlock, line: int) -> str:
    """Return the text of a line, without the markers and blanks before it."""
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]
