"""Markdown that arrives in pieces is rendered like the whole."""

import random
from collections import Counter

import pytest

from gptoss_cli.terminal.cells import cells, text_of
from gptoss_cli.terminal.markdown.layout import are_separated, blank_line, lay_out
from gptoss_cli.terminal.markdown.parse import leaf_blocks
from gptoss_cli.terminal.markdown.stream import MarkdownStream
from gptoss_cli.terminal.sanitize import neutralize
from tests.terminal.documents import DOCUMENTS

WIDTHS = (20, 40, 80, 200)


def at_once(text: str, columns: int) -> list[str]:
    """Render a whole document without the stream."""
    text = neutralize(text)
    lines = text.split("\n")
    shown: list[str] = []
    last = None
    for block in leaf_blocks(text):
        if last is not None:
            blank = block.start > 0 and not lines[block.start - 1].strip(" \t>")
            if are_separated(last, block, blank=blank):
                shown.append(text_of(blank_line(last, block)))
        shown += [text_of(line) for line in lay_out(block, columns)]
        last = block
    return shown


def streamed(pieces: list[str], columns: int) -> list[str]:
    stream = MarkdownStream(columns)
    shown = []
    for piece in pieces:
        stream.feed(piece)
        shown += stream.take()
    return [text_of(line) for line in shown + stream.finish()]


def split(text: str, rng: random.Random, count: int) -> list[str]:
    ends = sorted(rng.randrange(len(text) + 1) for _ in range(count))
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_in_pieces_is_rendered_like_the_whole(name: str) -> None:
    text = DOCUMENTS[name]
    rng = random.Random(name)
    for columns in WIDTHS:
        whole = at_once(text, columns)
        assert streamed([text], columns) == whole
        assert streamed(split(text, rng, 20), columns) == whole
    assert streamed(list(text), 40) == at_once(text, 40)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_tail_fits_the_screen(name: str) -> None:
    text = DOCUMENTS[name]
    for columns in (20, 80):
        stream = MarkdownStream(columns)
        for piece in split(text, random.Random(columns), 10):
            stream.feed(piece)
            stream.take()
            assert all(cells(text_of(line)) <= columns for line in stream.tail())


_HUGE = {
    "one line": "word " * 8_000,
    "one word": "x" * 40_000,
    "one paragraph": "Some **words** of a line\n" * 1_600,
    "brackets": "[" * 20_000,
    "parentheses": "](" * 10_000,
    "stars": "*a **b " * 3_000,
    "ticks": "`" * 20_000 + " " + "`a" * 3_000,
    "quotes": ">" * 20_000,
    "lists": "- " * 10_000 + "x\n" + "  - y\n" * 3_000,
    "a table": "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 4_000,
    "open code": "```py\n" + "x = 1\n" * 6_000,
    "a line of code": "```\n" + "0123456789" * 3_000 + "\n```\n\n- after",
    "code in a list": "- ```py\n" + "  x = 1\n" * 4_000 + "  ```\n- after\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", _HUGE)
def test_a_block_of_any_size_is_rendered_alike_in_any_pieces(name: str) -> None:
    text = _HUGE[name]
    whole = streamed([text], 80)
    assert streamed(split(text, random.Random(name), 40), 80) == whole
    shown = Counter(character for line in whole for character in line if character.isalnum())
    # Only the language of the code is not shown.
    missing = Counter(character for character in text if character.isalnum()) - shown
    assert missing in (Counter(), Counter("py"))
