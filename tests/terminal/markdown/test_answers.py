"""Answers as models write them keep their letters on every screen, and look as they did."""

import html
import os
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from gptoss_cli.terminal.cells import cells, text_of
from gptoss_cli.terminal.markdown.layout import lay_out
from gptoss_cli.terminal.markdown.parse import leaf_blocks
from gptoss_cli.terminal.sanitize import neutralize
from tests.terminal.answers import ANSWERS
from tests.terminal.markdown.test_stream import at_once, split, streamed

WIDTHS = (40, 80, 120)
_GOLDEN = Path(__file__).parents[2] / "golden"
_TAG = re.compile(r"</?(?:br|sub|sup|b|i|u|li|ul|kbd|mark|code)\s*/?>", re.IGNORECASE)


def letters(text: str) -> Counter[str]:
    return Counter(character for character in text if character.isalnum())


@pytest.mark.parametrize("columns", WIDTHS)
def test_answers_look_as_they_did(columns: int) -> None:
    """To write the files anew: GOLDEN=write."""
    shown = "".join(
        f"=== {name}\n" + "".join(f"{line.rstrip()}\n" for line in at_once(text, columns))
        for name, text in ANSWERS.items()
    )
    file = _GOLDEN / f"answers-{columns}.txt"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(shown, "utf-8")
    assert shown == file.read_text("utf-8")


@pytest.mark.parametrize("name", ANSWERS)
def test_no_letter_is_lost(name: str) -> None:
    text = ANSWERS[name]
    # Tags in code remain, and addresses of links in HTML are shown with the link.
    wanted = letters(html.unescape(_TAG.sub("", re.sub(r'<a href="([^"]*)">(.*?)</a>', r"\1 \2", text))))
    for columns in (20, *WIDTHS):
        assert not wanted - letters("".join(at_once(text, columns)))


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_in_pieces_is_rendered_like_the_whole(name: str) -> None:
    text = ANSWERS[name]
    rng = random.Random(name)
    for columns in WIDTHS:
        whole = at_once(text, columns)
        assert streamed(list(text), columns) == whole
        assert streamed(split(text, rng, 12), columns) == whole


@pytest.mark.parametrize("columns", WIDTHS)
def test_only_code_and_addresses_are_wider_than_the_screen(columns: int) -> None:
    for text in ANSWERS.values():
        for block in leaf_blocks(neutralize(text)):
            wide = [text_of(line) for line in lay_out(block, columns) if cells(text_of(line)) > columns]
            assert block.fence is not None or all("://" in line for line in wide)
