"""Inline rules that deviate from CommonMark where models do: formulas, names, addresses, HTML tags, CJK neighbours."""

import re
from bisect import bisect_left
from functools import lru_cache

from markdown_it import MarkdownIt
from markdown_it.common.utils import isMdAsciiPunct, isPunctChar, isWhiteSpace
from markdown_it.parser_inline import ParserInline
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.state_inline import Scanned
from markdown_it.token import Token
from markdown_it.utils import EnvType

FORMULA_CLOSERS = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}
# As pandoc has it: no blank before the closing dollar, no digit after it. `**$A** and **$B**` has no formula either.
_CLOSING_DOLLAR = re.compile(r"(?<=[^\s\\$])(?<![*_(\[{\"'])\$(?![\d$])|(?<=[*_(\[{\"'])\$(?![\w$])")
_ENVIRONMENT = re.compile(r"\\begin\{(\w+\*?)\}")
_DUNDER = re.compile(r"__(?:[a-z][a-z0-9]*(?:_[a-z0-9]+)*|[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)__(?!\w)")
# No CJK character belongs to an address, and the end of bold text does not either.
_ADDRESS = re.compile(r"://(?:[^\s<>\[\]`\\\"|*\u2e80-\uffef]|\*(?!\*))*[^\s<>\[\]`\\\"|*_~.,;:!?'(){}\u2e80-\uffef]")
_TAG = re.compile(r"<(/?)([a-zA-Z]+)((?:\s[^<>]*)?)/?>")
_AFTER_BREAK = re.compile(r"[ \t]*\n?[ \t]*")
_SCRIPT = re.compile(r"<(sub|sup)>([^<>*_`$\\\n&()\[\]]+|\[\w+\])</\1>", re.IGNORECASE)
_HREF = re.compile(r"""\bhref\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE)
_ORDINALS = ("st", "nd", "rd", "th", "tm")
# Tag -> what it is on the screen, for tags that are opened and closed in one piece of text.
_TAG_STYLES = {
    **dict.fromkeys(("b", "strong"), "strong"),
    **dict.fromkeys(("i", "em", "var", "cite", "dfn"), "em"),
    **dict.fromkeys(("s", "del", "strike"), "s"),
    **dict.fromkeys(("code", "kbd", "samp", "tt"), "code"),
    **dict.fromkeys(("a", "abbr", "big", "center", "div", "font", "ins", "li", "mark", "ol", "p", "q", "small"), ""),
    **dict.fromkeys(("span", "sub", "sup", "u", "ul"), ""),
}
_SCRIPT_MARKS = {"sub": "_", "sup": "^"}
_BREAKING_TAGS = ("div", "li", "p")
_CJK = re.compile(r"[\u1100-\u11ff\u2e80-\u303f\u3041-\ua4cf\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\ufe30-\ufe4f"
                  r"\uff01-\uffef\U0001b000-\U0001b16f\U00020000-\U0003fffd]")  # fmt: skip


def use_inline_rules(parser: MarkdownIt) -> None:
    """Give `parser` an inline parser with the rules that deviate."""
    parser.inline = _InlineParser()
    parser.disable(["linkify", "image", "html_inline"])
    ruler = parser.inline.ruler
    ruler.before("escape", "verbatim", _verbatim)
    ruler.after("autolink", "tag", _tag)


class _InlineState(StateInline):
    """The state of one piece of inline text, with the names of the tags that are open."""

    def __init__(self, src: str, md: MarkdownIt, env: EnvType, tokens: list[Token]) -> None:
        super().__init__(src, md, env, tokens)
        self.tags: list[str] = []

    def scanDelims(self, start: int, canSplitWord: bool) -> Scanned:  # noqa: N802, N803
        """Return if the markers at `start` open or close emphasis. A CJK neighbour is a boundary."""
        marker, end = self.src[start], start + 1
        while end < self.posMax and self.src[end] == marker:
            end += 1
        before = self.src[start - 1] if start else " "
        after = self.src[end] if end < self.posMax else " "
        if marker == "*" and end == start + 1 and before.isdigit() and after.isdigit():
            return Scanned(False, False, 1)  # a product such as 2*3*4
        blank_before, blank_after = isWhiteSpace(ord(before)), isWhiteSpace(ord(after))
        cjk_before, cjk_after = _is_cjk(before), _is_cjk(after)
        mark_before, mark_after = _is_mark(before), _is_mark(after)
        opens = not blank_after and (not mark_after or cjk_after or blank_before or mark_before or cjk_before)
        closes = not blank_before and (not mark_before or cjk_before or blank_after or mark_after or cjk_after)
        return Scanned(
            opens and (canSplitWord or not closes or mark_before),
            closes and (canSplitWord or not opens or mark_after),
            end - start,
        )


class _InlineParser(ParserInline):
    def parse(self, src: str, md: MarkdownIt, env: EnvType, tokens: list[Token]) -> list[Token]:
        """Parse `src`, with the boundaries of _InlineState."""
        state = _InlineState(src, md, env, tokens)
        self.tokenize(state)
        for rule in self.ruler2.getRules(""):
            rule(state)
        return state.tokens


def _is_cjk(character: str) -> bool:
    return character >= "\u1100" and _CJK.match(character) is not None


def _is_mark(character: str) -> bool:
    return isMdAsciiPunct(ord(character)) or isPunctChar(character)


def _verbatim(state: StateInline, silent: bool) -> bool:
    """Take what is no Markdown as it is: formulas, two backslashes, dunder names, addresses."""
    match state.src[state.pos]:
        case "\\" | "$":
            return _formula(state, silent)
        case "_":
            return _dunder(state, silent)
        case ":":
            return _address(state, silent)
    return False


def _formula(state: StateInline, silent: bool) -> bool:
    # Two backslashes are a line break of LaTeX, or the beginning of a network path.
    if state.src.startswith("\\\\", state.pos):
        return _take(state, state.pos + 2, silent)
    end = _formula_end(state.src, state.pos, state.posMax)
    if end < 0:
        return False
    if not silent:
        state.push("formula", "", 0).content = state.src[state.pos : end]
    state.pos = end
    return True


def _formula_end(text: str, start: int, stop: int) -> int:
    """Return the end of the formula at `start`, which is before `stop`; -1 if there is none."""
    opener = text[start : start + 2]
    if opener in FORMULA_CLOSERS:
        closer = FORMULA_CLOSERS[opener]
    elif opener[0] == "$" and opener[1:].strip():
        return _dollar_end(text, start, stop)
    elif environment := _ENVIRONMENT.match(text, start, stop) if opener == "\\b" else None:
        closer = f"\\end{{{environment[1]}}}"
    else:
        return -1
    found = text.find(closer, start + 3, stop)
    return found + len(closer) if found >= 0 else -1


def _dollar_end(text: str, start: int, stop: int) -> int:
    closing = _closing_dollars(text)
    at = bisect_left(closing, start + 2)
    if at == len(closing) or closing[at] >= stop or text.find("`", start, closing[at]) >= 0:
        return -1
    return closing[at] + 1


@lru_cache(maxsize=4)
def _closing_dollars(text: str) -> list[int]:
    """Return where dollars may close a formula. Kept, since each opening dollar of a text needs them."""
    return [match.start() for match in _CLOSING_DOLLAR.finditer(text)]


def _dunder(state: StateInline, silent: bool) -> bool:
    before = state.src[state.pos - 1] if state.pos else " "
    if before.isalnum() or before == "_":
        return False
    match = _DUNDER.match(state.src, state.pos, state.posMax)
    return match is not None and _take(state, match.end(), silent)


def _address(state: StateInline, silent: bool) -> bool:
    """Take the rest of an address after its scheme, with its underscores."""
    if not state.pos or not state.src[state.pos - 1].isalnum():
        return False
    match = _ADDRESS.match(state.src, state.pos, state.posMax)
    return match is not None and _take(state, match.end(), silent)


def _take(state: StateInline, end: int, silent: bool) -> bool:
    if not silent:
        state.pending += state.src[state.pos : end]
    state.pos = end
    return True


def _tag(state: StateInline, silent: bool) -> bool:
    """Replace tags of HTML that only concern the look. All others remain visible, and so do those of no pair."""
    assert isinstance(state, _InlineState)
    if state.src[state.pos] != "<":
        return False
    script = _SCRIPT.match(state.src, state.pos, state.posMax)
    if script is not None:
        if not silent:
            state.pending += _script(script[1].lower(), script[2], state.src[script.end() : script.end() + 1])
        state.pos = script.end()
        return True
    match = _TAG.match(state.src, state.pos, state.posMax)
    if match is None or not (silent or _show_tag(state, match)):
        return False
    state.pos = match.end()
    if state.tokens and state.tokens[-1].type == "hardbreak" and not state.pending:
        rest = _AFTER_BREAK.match(state.src, state.pos, state.posMax)
        state.pos = rest.end() if rest else state.pos
    return True


def _script(kind: str, text: str, after: str) -> str:
    """Return an index or an exponent without its tags. An exponent may not look like further digits."""
    text = text.strip()
    if kind == "sup" and text.lower() in _ORDINALS:
        return text
    if kind == "sub" and text.isdigit() and not after.isdigit():
        return text
    is_simple = re.fullmatch(r"[+\-\u2212]?\w+|\[\w+\]", text) is not None and not after.isalnum()
    return f"{_SCRIPT_MARKS[kind]}{text if is_simple else f'({text})'}"


def _has_text(state: StateInline) -> bool:
    """Return True if there is anything after the last line break."""
    before = (token.type for token in reversed(state.tokens) if not token.type.startswith("tag_"))
    return bool(state.pending.strip()) or next(before, "softbreak") not in ("softbreak", "hardbreak")


def _show_tag(state: _InlineState, match: re.Match[str]) -> bool:
    """Add the tokens for a tag; return False if it is shown as it is."""
    closes, name = bool(match[1]), match[2].lower()
    if name in ("br", "wbr"):
        if name == "br":
            state.push("hardbreak", "br", 0)
        return True
    if name not in _TAG_STYLES:
        return False
    if closes:
        if name not in state.tags:
            return False
        state.tags.remove(name)
        state.pending += ")" if name in _SCRIPT_MARKS else ""
        state.push("link_close" if name == "a" else "tag_close", _TAG_STYLES[name], 0)
        return True
    href = _HREF.search(match[3])
    if f"</{name}>" not in state.src[match.end() : state.posMax].lower() or (name == "a" and href is None):
        return False
    state.tags.append(name)
    if name in _BREAKING_TAGS and _has_text(state):
        state.push("hardbreak", "br", 0)
    token = state.push("link_open" if name == "a" else "tag_open", _TAG_STYLES[name], 0)
    if name == "a" and href is not None:
        token.attrs = {"href": href[1] or href[2] or href[3] or ""}
    state.pending += f"{_SCRIPT_MARKS[name]}(" if name in _SCRIPT_MARKS else "• " if name == "li" else ""
    return True
