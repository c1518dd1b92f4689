"""Styled text, its width in terminal columns, and breaking it into lines. Widths are never underestimated."""

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import cache
from itertools import groupby
from typing import NamedTuple

from rich.cells import get_character_cell_size

_JOINERS = "\u200d\ufe0f"
# Chinese, Japanese and Korean break between any two characters, but not before closing
# punctuation and not after an opening bracket.
_CJK = "\u1100-\u115f\u2e80-\u3000\u3003-\ua4cf\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003fffd"
_CLOSING = "\u3001\u3002\uff0c\uff0e\uff01\uff1f\uff1a\uff1b\uff09\u300d\u300f\u3011\u3009\u300b"
_OPENING = "\uff08\u300c\u300e\u3010\u3008\u300a"
# Not broken, since a terminal finds an address that it has wrapped itself, and not one with a newline in it.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|\bwww\.|mailto:")

_LEAST_TEXT_COLUMNS = 24


class Role(StrEnum):
    """The role of a piece of text on the screen. The value is its SGR parameters: 16 colours, so palettes apply."""

    PLAIN = ""
    TITLE = "1;4"
    HEADING = "1"
    STRONG = "1"
    EMPHASIS = "3"
    STRUCK = "9"
    CODE = "36"
    LINK = "34"
    MARK = "90"  # bullets, quote bars, rules: what the layout adds
    DIM = "2"
    KEYWORD = "35"
    STRING = "32"
    NUMBER = "36"
    NAME = "34"
    COMMENT = "90"


class Span(NamedTuple):
    """Text in one style, whose SGR parameters are `sgr`."""

    text: str
    sgr: str = ""


Line = list[Span]


def cells(text: str) -> int:
    """Return the most columns that `text` takes on any terminal.

    Terminals disagree about joined emoji. Each part is counted, so that no terminal wraps a line that is to fit.
    """
    if text.isascii():
        return len(text)
    return sum(get_character_cell_size(character) for character in text) + text.count("\ufe0f")


def cut(text: str, width: int) -> str:
    """Return the beginning of `text` that fits `width` columns."""
    if text.isascii():
        return text[: max(0, width)]
    return text_of(fold([Span(text)], width)[0]) if width > 1 else ""


def style_line(line: Line) -> str:
    """Return the text of the line with escape sequences for its styles."""
    same = groupby(line, key=lambda span: span.sgr)
    return "".join(_style(sgr, "".join(span.text for span in spans)) for sgr, spans in same)


def text_of(line: Line) -> str:
    """Return the text of the line without styles."""
    return "".join(span.text for span in line)


def wrap(spans: Line, width: int, *, whole_words: bool = False) -> list[Line]:
    """Break `spans` into lines of at most `width` columns: at newlines, at spaces, and in words that are too long.

    Blanks at the beginning of a line of the text remain. A long address is a line of its own that may be wider; so is
    every long word with `whole_words`.
    """
    wrapper = _Wrapper(max(2, width), whole_words)
    for word in _words(spans):
        wrapper.add(word)
    return wrapper.finish()


def in_two_columns(entries: Sequence[tuple[str, str]], width: int) -> list[tuple[str, str]]:
    """Return the lines of names and texts as two columns in `width`, each with its name part and its text part.

    The texts are wrapped in their column. Where that would be narrow, a text is below its name.
    """
    names = max((cells(name) for name, _ in entries), default=0) + 2
    is_narrow = width - names < _LEAST_TEXT_COLUMNS
    indent = min(4, width // 4) if is_narrow else names
    lines: list[tuple[str, str]] = []
    for name, text in entries:
        first = name if is_narrow else name + " " * (names - cells(name))
        rows = [text_of(row) for row in wrap([Span(text)], width - indent, whole_words=True)]
        if is_narrow:
            lines.append((name, ""))
            first = " " * indent
        lines += [(" " * indent if number else first, row) for number, row in enumerate(rows) if row]
    return lines


def widest_word(spans: Line) -> int:
    """Return the columns of the longest piece that wrap() does not break where there is room for it."""
    return max((cells(text_of(word)) for word in _words(spans) if not word[0].text.isspace()), default=0)


def fold(spans: Line, width: int) -> list[Line]:
    """Break `spans` into lines of at most `width` columns, anywhere, as a terminal does."""
    width = max(2, width)
    if cells(text_of(spans)) <= width:
        return [spans]
    lines: list[Line] = [[]]
    used = 0
    for span in spans:
        start = 0
        for i, character in enumerate(span.text):
            size = cells(character)
            if used + size > width and not _continues(span.text, i):
                lines[-1].append(Span(span.text[start:i], span.sgr))
                lines.append([])
                start, used = i, 0
            used += size
        lines[-1].append(Span(span.text[start:], span.sgr))
    return lines


class _Wrapper:
    def __init__(self, width: int, whole_words: bool) -> None:
        self._width = width
        self._whole_words = whole_words
        self._lines: list[Line] = []
        self._line: Line = []
        self._used = 0
        self._spaces: Line = []
        self._gap = 0
        self._begins = True  # at the beginning of a line of the text

    def add(self, word: Line) -> None:
        text = word[0].text if len(word) == 1 else text_of(word)
        if text == "\n":
            self._break()
            self._begins = True
        elif text.isspace():
            self._spaces, self._gap = word, cells(text)
        else:
            self._append(word, cells(text))

    def finish(self) -> list[Line]:
        if self._line:
            self._break()
        return self._lines or [[]]

    def _append(self, word: Line, size: int) -> None:
        gap = self._gap
        if self._used and self._used + gap + size > self._width:
            self._break()
        elif self._used or (self._begins and gap + size <= self._width):
            self._line += self._spaces
            self._used += gap
        self._spaces, self._gap, self._begins = [], 0, False
        if size > self._width and not self._whole_words and not _ADDRESS.search(text_of(word)):
            *full, word = fold(word, self._width)
            self._lines += full
            size = cells(text_of(word))
        self._line += word
        self._used += size

    def _break(self) -> None:
        self._lines.append(self._line)
        self._line, self._used, self._spaces, self._gap = [], 0, [], 0


# Compiled when they are needed: the prompt of a chat, which comes first, wraps nothing.
@cache
def _atom() -> re.Pattern[str]:
    return re.compile(rf"\n| +|[{_OPENING}]*[{_CJK}][{_CLOSING}]*|[^ \n{_CJK}]+")


@cache
def _cjk_atom() -> re.Pattern[str]:
    return re.compile(f"[{_OPENING}]*[{_CJK}]")


def _words(spans: Line) -> Iterator[Line]:
    """Yield words, runs of spaces and newlines, in order. A word may consist of several styles."""
    word: Line = []
    for span in spans:
        is_ascii = span.text.isascii()
        for atom in _atom().findall(span.text):
            is_whole = atom[0] in " \n" or not (is_ascii or _cjk_atom().match(atom) is None)
            if is_whole and word:
                yield word
                word = []
            if is_whole:
                yield [Span(atom, span.sgr)]
            else:
                word.append(Span(atom, span.sgr))
    if word:
        yield word


def _continues(text: str, i: int) -> bool:
    """Return True if the character at `i` shares the cells of the one before it."""
    return text[i] in _JOINERS or (i > 0 and text[i - 1] == "\u200d") or get_character_cell_size(text[i]) == 0


def _style(sgr: str, text: str) -> str:
    return f"\x1b[{sgr}m{text}\x1b[0m" if sgr and text else text


def stacked(table: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table that is wider than the terminal: the first cell of a row, and the others below it.

    The first row has the headings.
    """
    headings, *rows = table
    width = max(len(each) for each in headings[1:])
    for first, *others in rows:
        yield first
        named = zip(headings[1:], others, strict=True)
        yield from (f"  {name.lower():{width}}  {cell}" for name, cell in named if cell)
