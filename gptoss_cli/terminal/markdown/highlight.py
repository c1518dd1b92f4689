"""Syntax highlighting of code, a few lines at a time. The text is never changed."""

import re
from collections.abc import Sequence
from functools import cache, lru_cache

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name, get_lexer_for_filename
from pygments.token import Comment, Keyword, Name, Number, String, _TokenType
from pygments.util import ClassNotFound

from gptoss_cli.terminal.cells import Line, Role, Span, text_of
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
_LANGUAGE = re.compile(r"[\w+#-][\w+#./-]*")


def highlight(lines: Sequence[str], language: str, *, context: Sequence[str] = ()) -> list[Line]:
    """Highlight `lines` in the language that `language` names, if it is known. `context` are the lines before them."""
    if not lines:
        return []
    whole = [neutralize(line).expandtabs(_TAB_COLUMNS) for line in (*context, *lines)]
    lexer = lexer_of(language)
    lexed = _lex(whole, lexer) if lexer is not None else None
    if lexed is None:
        lexed = [[Span(line, Role.CODE)] if line else [] for line in whole]
    return lexed[len(context) :]


def _lex(code: Sequence[str], lexer: Lexer) -> list[Line] | None:
    """Return the lines of `code` with their roles; None if the lexer changes them."""
    lines: list[Line] = [[]]
    # Some lexers need a newline at the end. Not get_tokens, which strips newlines at the beginning and the end.
    for _, kind, text in lexer.get_tokens_unprocessed("\n".join((*code, ""))):
        first, *more = text.split("\n")
        sgr = _role(kind)
        if first:
            lines[-1].append(Span(first, sgr))
        lines.extend([Span(line, sgr)] if line else [] for line in more)
    lines = lines[: len(code)]
    return lines if [text_of(line) for line in lines] == list(code) else None


@cache
def _role(kind: _TokenType) -> str:
    return next((_ROLES[each] for each in reversed(kind.split()) if each in _ROLES), Role.PLAIN)


@lru_cache(maxsize=64)
def lexer_of(language: str) -> Lexer | None:
    """Return the lexer for the text after a fence, such as `py`, `{.python}` or `python:main.py`; None if unknown."""
    match = _LANGUAGE.search(language)
    name = match[0].lower() if match else ""
    for find, key in ((get_lexer_by_name, name), (get_lexer_for_filename, f"x.{name}")):
        try:
            return find(key) if name else None
        except ClassNotFound:
            continue
    return None
