"""Syntax highlighting of code, a few lines at a time. The text is never changed."""

from collections.abc import Sequence
from functools import cache

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Keyword, Name, Number, String, _TokenType
from pygments.util import ClassNotFound

from gptoss_cli.terminal.cells import Line, Role, Span
from gptoss_cli.terminal.sanitize import neutralize

# Lines before a piece of code that are lexed with it, for strings and comments of several lines.
CONTEXT_LINES = 48
_ROLES = {
    Comment: Role.COMMENT,
    Keyword: Role.KEYWORD,
    String: Role.STRING,
    Number: Role.NUMBER,
    Name.Function: Role.NAME,
    Name.Class: Role.NAME,
    Name.Tag: Role.KEYWORD,
    Name.Decorator: Role.NAME,
}
_TAB_COLUMNS = 4


def highlight(lines: Sequence[str], language: str, *, context: Sequence[str] = ()) -> list[Line]:
    """Highlight `lines` in `language`, which may be unknown. `context` are the lines before them."""
    if not lines:
        return []
    whole = [neutralize(line).expandtabs(_TAB_COLUMNS) for line in (*context, *lines)]
    lexer = _lexer(language)
    if lexer is None:
        lexed: list[Line] = [[Span(line, Role.CODE)] if line else [] for line in whole]
    else:
        lexed = _lex("\n".join(whole), lexer)
    return lexed[len(context) :]


def _lex(code: str, lexer: Lexer) -> list[Line]:
    lines: list[Line] = [[]]
    # Not get_tokens, which strips newlines at the beginning and the end.
    for _, kind, text in lexer.get_tokens_unprocessed(code):
        first, *more = text.split("\n")
        sgr = _role(kind)
        if first:
            lines[-1].append(Span(first, sgr))
        lines.extend([Span(line, sgr)] if line else [] for line in more)
    return lines


@cache
def _role(kind: _TokenType) -> str:
    return next((_ROLES[each] for each in reversed(kind.split()) if each in _ROLES), Role.PLAIN)


@cache
def _lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language) if language else None
    except ClassNotFound:
        return None
