"""Any Markdown of the kinds that models write keeps every letter, in whatever pieces it arrives."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.terminal.markdown.test_answers import letters
from tests.terminal.markdown.test_stream import at_once, split, streamed

_WORDS = st.text("abcxyzÄ漢字かな한글٣7", min_size=1, max_size=8)
_LINES = st.lists(_WORDS, min_size=1, max_size=6).map(" ".join)
_INLINE = st.one_of(
    _LINES,
    st.builds("{}{}{}".format, _WORDS, st.sampled_from(["**「{}」**", "**{}**", "*{}*", "~~{}~~", "`{}`"]), _WORDS),
    st.builds("\\({}_1 * {}\\)".format, _WORDS, _WORDS),
    st.builds("${}^*$ and $5".format, _WORDS),
    st.builds("__{}__.py".format, st.sampled_from(["init", "main", "new"])),
    st.builds("https://{}.org/{}_{}_".format, _WORDS, _WORDS, _WORDS),
    st.builds("[{}](https://x.org/{})".format, _LINES, st.text("abc_", min_size=1, max_size=60)),
    st.builds("{}<br>{}".format, _WORDS, _WORDS),
    st.builds("{}<sub>{}</sub> <kbd>{}</kbd>".format, _WORDS, _WORDS, _WORDS),
    st.builds("{} \u200f\u061c{}".format, _WORDS, _WORDS),
)
_TEXT = st.lists(_INLINE, min_size=1, max_size=4).map(" ".join)
_CODE = st.lists(st.one_of(_LINES, st.just(""), _LINES.map("    {}".format)), max_size=12).map("\n".join)
_FENCED = st.builds(
    "{0}{1}\n{2}\n{0}\n".format,
    st.sampled_from(["```", "````", "~~~"]),
    st.sampled_from(["", "py", "md", "x y"]),
    _CODE,
)
_BLOCKS = st.one_of(
    _TEXT.map("{}\n".format),
    _TEXT.map("## {}\n".format),
    _FENCED,
    st.builds("\\[\n{}\n= {} \\\\\n- {}\n\\]\n".format, _LINES, _LINES, _LINES),
    st.builds("$$\n{}\n---\n{}\n$$\n".format, _LINES, _LINES),
    st.builds("| {} | {} |\n|---|:-:|\n| {} | {} | {} |\n| {} |\n".format, *[_TEXT] * 6),
)


def _indented(block: str, first: str, columns: int) -> str:
    lines = block.rstrip("\n").split("\n")
    return "\n".join([first + lines[0], *(" " * columns + line if line else "" for line in lines[1:])]) + "\n"


_NESTED = st.one_of(
    _BLOCKS,
    st.builds(_indented, _BLOCKS, st.sampled_from(["- ", "* ", "1. "]), st.sampled_from([2, 3, 4, 6])),
    st.builds(_indented, _BLOCKS, st.sampled_from(["      - ", "\t- ", "> "]), st.sampled_from([4, 8])),
    _BLOCKS.map(lambda block: "".join(f"> {line}\n" for line in block.rstrip("\n").split("\n"))),
)
_DOCUMENTS = st.lists(st.tuples(_NESTED, st.sampled_from(["", "\n"])), min_size=1, max_size=6).map(
    lambda parts: "".join(block + blank for block, blank in parts)
)


def _keeps_letters(text: str, columns: int, rng: random.Random) -> None:
    whole = at_once(text, columns)
    wanted = letters(text.replace("<br>", "").replace("sub>", ">").replace("kbd>", ">"))
    assert not wanted - letters("".join(whole))
    assert streamed(split(text, rng, 8), columns) == whole


_ANY = given(_DOCUMENTS, st.sampled_from([20, 40, 80, 120]), st.randoms(use_true_random=False))


@settings(max_examples=60, deadline=None)
@_ANY
def test_no_letter_is_lost_in_any_pieces(text: str, columns: int, rng: random.Random) -> None:
    _keeps_letters(text, columns, rng)


@pytest.mark.slow
@settings(max_examples=3_000, deadline=None)
@_ANY
def test_no_letter_is_lost_in_thousands_of_documents(text: str, columns: int, rng: random.Random) -> None:
    _keeps_letters(text, columns, rng)
