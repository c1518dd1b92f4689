"""Text as one clean line: no control characters, no direction marks, no more columns than there are."""

import unicodedata
from typing import Final

TITLE_CELLS: Final = 60

# Separators of lines and paragraphs, controls, lone surrogates, unassigned codes. Format characters (Cf) are hidden
# or turn the direction of a line around, except the joiners, without which some scripts and emoji fall apart.
_UNWANTED: Final = frozenset({"Zl", "Zp", "Cc", "Cf", "Cs", "Cn"})
_JOINERS: Final = "\u200c\u200d"


def clean(text: str) -> str:
    """Return `text` with a space for each character that a line on a terminal must not hold; the length stays."""
    if text.isprintable():
        return text
    return "".join(" " if _is_unwanted(character) else character for character in text)


def title_line(text: str, cells: int = TITLE_CELLS) -> str:
    """Return the first line of `text` with something on it, in at most `cells` columns; empty if there is none."""
    # No more than this can fit, however many characters have no width: a paste may be megabytes long.
    for line in text[: 100 * cells].splitlines():
        words = " ".join(clean(line).split())
        if words:
            return _shortened(words, cells)
    return ""


def _shortened(text: str, cells: int) -> str:
    widths = [_width(character) for character in text]
    if sum(widths) <= cells:
        return text
    kept, used = 0, 1
    while used + widths[kept] <= cells:
        used += widths[kept]
        kept += 1
    return text[:kept].rstrip() + "…"


def _is_unwanted(character: str) -> bool:
    return unicodedata.category(character) in _UNWANTED and character not in _JOINERS


def _width(character: str) -> int:
    """Return the columns of a character, too many rather than too few where terminals disagree."""
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return int(character == "\ufe0f")
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
