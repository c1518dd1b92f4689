"""Encoding of text in time linear in its length, with the ids that openai_harmony gives.

openai_harmony cuts text into pieces (words, numbers, punctuation, blanks) and merges the bytes of each piece to tokens
in time quadratic in the length of the piece. A piece of a million characters takes minutes, or makes it panic. Such
long pieces are found here and encoded in overlapping windows:

    piece     aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    window 1  |----|-------|----|--:--|                          | token ends
    window 2                    |--:--|------|----|---|          : both have this token: window 2 goes on after it

A sequence of tokens is what byte pair encoding makes of its text if that is true of each two neighbours (van Antwerpen
and Neubeck, "So many tokens, so little time"). All neighbours are from one of the two windows, so the ids are exact.

They may differ from those of openai_harmony in two cases. Where two windows have no token in common, or no window of
the text would be a single piece (thousands of marks that alternate with punctuation), a piece is cut where a window
ends. And next to a long piece, characters are classified by the Unicode version of Python: a letter that is newer
counts as punctuation there.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Final

import openai_harmony
from openai_harmony import HarmonyError

from gptoss_cli.errors import ResourceError, first_line
from gptoss_cli.harmony.vocabulary import MESSAGE, load_encoding, token_text

_LONGEST_PIECE: Final = 1_000  # characters that openai_harmony may encode as one piece
_WINDOW_BYTES: Final = 512
_TRIES: Final = 8  # token starts that are tried for a window
_OVERLAPS_BYTES: Final = (48, 256)  # no token is longer than 128 bytes; nearly always the first one is enough
# Every longer piece has such a run: it is blanks, or it has none but at its start, and slashes or newlines at its end.
_LONG_RUN: Final = re.compile(rf"[^ \t\n]{{{_LONGEST_PIECE // 2}}}|[\s/]{{{_LONGEST_PIECE // 2}}}")

_LONGEST_CALL: Final = 100_000  # characters
# Between a letter or a number and one of these, all pieces end.
_CUT: Final = re.compile(r"[^\W_](?=[ \n,.;:!?()。、，])")  # noqa: RUF001

# The classes of characters that the pieces of o200k_base are defined by: Upper case, Lower case, letters that are Both
# and neither, Marks, Numbers, newlines (R), Spaces, slashes, other White space; everything else is punctuation (P).
_CATEGORIES: Final = {
    **dict.fromkeys(("Lu", "Lt"), "U"),
    "Ll": "L",
    **dict.fromkeys(("Lm", "Lo"), "B"),
    **dict.fromkeys(("Mn", "Mc", "Me"), "M"),
    **dict.fromkeys(("Nd", "Nl", "No"), "N"),
}
_SEPARATORS: Final = "\x1c\x1d\x1e\x1f"  # white space to Python, but not to Unicode
_PIECE: Final = re.compile(
    r"(?P<word>[^RULBN]?(?:[UBM]*[LBM]+|[UBM]+))|N{1,3}|S?[PM/]+[R/]*|(?P<blanks>[RSW]*R+|[RSW]+(?![^RSW])|[RSW]+)"
)
_CONTRACTION: Final = re.compile("'(?:s|t|re|ve|m|ll|d)", re.IGNORECASE)
# A text that stands for another one while a message is rendered.
_PLACEHOLDER: Final = "\U000f7a3c"

_Token = tuple[int, int]  # where its bytes begin, and its id


def encode(text: str) -> list[int]:
    """Return the ids of `text`, in which special tokens are ordinary text. It must not have surrogates.

    Raises ResourceError if the library fails.
    """
    ids: list[int] = []
    begin = 0
    for start, end, tail in _long_pieces(text):
        ids += _encode_parts(text[begin:start])
        ids += _encode_piece(text[start:end], tail)
        begin = end
    return ids + _encode_parts(text[begin:])


def render(message: Callable[[str], openai_harmony.Message], text: str) -> list[int]:
    """Return the ids of the message that `message` makes of `text`. Raises ResourceError if the library fails."""
    if len(text) <= _LONGEST_CALL and _LONG_RUN.search(text) is None:
        with library_errors():
            return load_encoding().render(message(text))
    ids = render(message, _PLACEHOLDER)
    content = ids.index(MESSAGE) + 1
    whole = load_encoding().decode(ids[content:-1]).replace(_PLACEHOLDER, text, 1)
    return [*ids[:content], *encode(whole), ids[-1]]


class _Classes(dict[int, str]):
    """The class of each character, for str.translate. Filled as characters are met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        named = {"\r": "R", "\n": "R", " ": "S", "/": "/"}.get(character)
        if named is None:
            is_blank = character.isspace() and character not in _SEPARATORS
            named = "W" if is_blank else _CATEGORIES.get(unicodedata.category(character), "P")
        self[code] = named
        return named


_CLASSES: Final = _Classes()


def _pieces(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, tail) of each piece of `text`: a part of the piece and the tail are one piece too."""
    classes = text.translate(_CLASSES)
    end = 0
    while match := _PIECE.match(classes, end):
        start, end = match.span()
        if match.lastgroup == "word":
            contraction = _CONTRACTION.match(text, end)
            end = contraction.end() if contraction else end
        yield start, end, {"word": "a", "blanks": "\n"}.get(match.lastgroup or "", "")


def _long_pieces(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the long pieces of `text`, and a piece of blanks before one: at the end of a text it would be another."""
    if _LONG_RUN.search(text) is None:
        return
    before: tuple[int, int, str] | None = None
    for piece in _pieces(text):
        start, end, _ = piece
        if end - start <= _LONGEST_PIECE:
            before = piece
            continue
        if before is not None and text[before[0]].isspace():
            yield before
        before = None
        yield piece


def _encode_parts(text: str) -> list[int]:
    """Return the ids of a text without long pieces. No call of the library is long, so other threads can run."""
    ids: list[int] = []
    begin = 0
    while len(text) - begin > _LONGEST_CALL:
        cut = _CUT.search(text, begin + _LONGEST_CALL // 2)
        if cut is None:
            break
        ids += _by_library(text[begin : cut.end()])
        begin = cut.end()
    return ids + _by_library(text[begin:])


def _encode_piece(piece: str, tail: str) -> list[int]:
    """Return the ids of one piece. See _pieces for `tail`."""
    if len(piece) <= _LONGEST_PIECE:
        return _by_library(piece)
    data = piece.encode()
    ids: list[int] = []
    start, end = 0, _window_end(data, 0)
    window = _window(data, start, end, tail)
    while end < len(data):
        joint = _joint(data, window, start, end, tail) or _cut(data, window, start, tail)
        ids += (id_ for _, id_ in window[: joint.taken])
        start, end, window = joint.start, joint.end, joint.window
    return [*ids, *(id_ for _, id_ in window)]


@dataclass(frozen=True, slots=True)
class _Joint:
    """A next window, from `start` to `end`, and the tokens of it that follow the first `taken` ones of the last one."""

    taken: int
    start: int
    end: int
    window: list[_Token]


def _joint(data: bytes, window: list[_Token], start: int, end: int, tail: str) -> _Joint | None:
    """Return a next window that has a token in common with `window`, None if there is none."""
    numbers = {token: number for number, token in enumerate(window)}
    for overlap in _OVERLAPS_BYTES:
        begins = [begin for begin, _ in window if start < begin <= end - overlap and _is_character_start(data, begin)]
        for begin in reversed(begins[-_TRIES:]):
            next_end = _window_end(data, begin)
            if _is_one_piece(data[begin:next_end].decode() + ("" if next_end == len(data) else tail)):
                after = _window(data, begin, next_end, tail)
                for number, token in enumerate(after):
                    if token in numbers:
                        return _Joint(numbers[token] + 1, begin, next_end, after[number + 1 :])
                break
    return None


def _cut(data: bytes, window: list[_Token], start: int, tail: str) -> _Joint:
    """Return a next window that begins where a token of `window` does."""
    for number, (begin, _) in reversed(list(enumerate(window))):
        if begin > start and _is_character_start(data, begin):
            end = _window_end(data, begin)
            return _Joint(number, begin, end, _window(data, begin, end, tail))
    raise ResourceError("The text has a word that is too long to be encoded")


def _window_end(data: bytes, start: int) -> int:
    """Return the end of the window at `start`; the last one is longer."""
    end = start + _WINDOW_BYTES
    if len(data) - end < _OVERLAPS_BYTES[-1]:
        return len(data)
    while not _is_character_start(data, end):
        end -= 1
    return end


def _window(data: bytes, start: int, end: int, tail: str) -> list[_Token]:
    """Return the tokens of a part of a piece, without those that are, in part, of the tail."""
    tokens = []
    begin = start
    for id_ in _by_library(data[start:end].decode() + ("" if end == len(data) else tail)):
        token_end = begin + _token_bytes(id_)
        if token_end > end:
            break
        tokens.append((begin, id_))
        begin = token_end
    return tokens


def _is_one_piece(text: str) -> bool:
    return next(_pieces(text))[:2] == (0, len(text))


def _is_character_start(data: bytes, index: int) -> bool:
    return data[index] & 0xC0 != 0x80  # not a continuation byte of UTF-8


@cache
def _token_bytes(id_: int) -> int:
    return len(token_text(id_).data)


def _by_library(text: str) -> list[int]:
    with library_errors():
        return load_encoding().encode(text, disallowed_special=())


@contextmanager
def library_errors() -> Iterator[None]:
    """Raise ResourceError for an exception of openai_harmony about a text, also for a panic."""
    try:
        yield
    except (HarmonyError, ValueError) as exc:
        raise ResourceError(f"The text cannot be encoded ({first_line(exc)})") from exc
    except BaseException as exc:
        # PyO3's class for a panic of Rust is no Exception and cannot be imported.
        if type(exc).__name__ != "PanicException":
            raise
        raise ResourceError(f"The text cannot be encoded ({first_line(exc)})") from exc
