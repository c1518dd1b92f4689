"""How many columns text takes, and where it is broken into lines. Counts too many columns rather than too few."""

import re
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from rich.cells import get_character_cell_size

from gptoss_cli.terminal.theme import paint

_JOINERS = "\u200d\ufe0f"
# Chinese, Japanese and Korean may be broken between any two characters, but not before a closing mark.
_UNSPACED = "\u1100-\u115f\u2e80-\u3000\u3003-\ua4cf\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003fffd"
_CLOSING = "\u3001\u3002\uff0c\uff0e\uff01\uff1f\uff1a\uff1b\uff09\u300d\u300f\u3011\u3009\u300b"
_ATOM = re.compile(rf"\n| +|[{_UNSPACED}][{_CLOSING}]*|[^ \n{_UNSPACED}]+")


class Span(NamedTuple):
    """Text in one style; `sgr` are the parameters of the code that begins it."""

    text: str
    sgr: str = ""


Line = list[Span]


def cells(text: str) -> int:
    """Columns that `text` takes at most.

    Terminals disagree about joined emoji: each part is counted, so that no terminal breaks a line we think fits.
    """
    if text.isascii():
        return len(text)
    return sum(get_character_cell_size(character) for character in text) + text.count("\ufe0f")


def paint_line(line: Line) -> str:
    """The line with its styles, as the terminal gets it."""
    same = groupby(line, key=lambda span: span.sgr)
    return "".join(paint(sgr, "".join(span.text for span in spans)) for sgr, spans in same)


def text_of(line: Line) -> str:
    """The line without its styles."""
    return "".join(span.text for span in line)


def wrap(spans: Line, width: int) -> list[Line]:
    """`spans` as lines of at most `width` columns, broken at spaces, at every newline, and inside a word too long."""
    filler = _Filler(max(2, width))
    for word in _words(spans):
        filler.add(word)
    return filler.close()


def fold(spans: Line, width: int) -> list[Line]:
    """`spans` as lines of at most `width` columns, broken wherever the column is reached, as a terminal does."""
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


class _Filler:
    def __init__(self, width: int) -> None:
        self._width = width
        self._lines: list[Line] = []
        self._line: Line = []
        self._used = 0
        self._spaces: Line = []

    def add(self, word: Line) -> None:
        text = word[0].text if len(word) == 1 else text_of(word)
        if text == "\n":
            self._break()
        elif text.isspace():
            self._spaces = word
        else:
            self._place(word, cells(text))

    def close(self) -> list[Line]:
        if self._line:
            self._break()
        return self._lines or [[]]

    def _place(self, word: Line, size: int) -> None:
        gap = cells(text_of(self._spaces))
        if self._used and self._used + gap + size > self._width:
            self._break()
        elif self._used:
            self._line += self._spaces
            self._used += gap
        self._spaces = []
        if size > self._width:
            *full, word = fold(word, self._width)
            self._lines += full
            size = cells(text_of(word))
        self._line += word
        self._used += size

    def _break(self) -> None:
        self._lines.append(self._line)
        self._line, self._used, self._spaces = [], 0, []


def _words(spans: Line) -> Iterator[Line]:
    """What may not be broken, spaces and newlines, in order; a word may change its style within."""
    word: Line = []
    for span in spans:
        for atom in _ATOM.findall(span.text):
            breaks = atom[0] in " \n" or _ATOM_IS_UNSPACED.match(atom) is not None
            if breaks and word:
                yield word
                word = []
            if breaks:
                yield [Span(atom, span.sgr)]
            else:
                word.append(Span(atom, span.sgr))
    if word:
        yield word


_ATOM_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")


def _continues(text: str, i: int) -> bool:
    """Whether the character at `i` belongs to the one before it on the screen."""
    return text[i] in _JOINERS or (i > 0 and text[i - 1] == "\u200d") or get_character_cell_size(text[i]) == 0
