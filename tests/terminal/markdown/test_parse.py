"""Markdown is parsed into leaf blocks, with the prefixes of their containers."""

import pytest

from gptoss_cli.terminal.cells import text_of
from gptoss_cli.terminal.markdown.parse import Kind, is_blank, leaf_blocks


def test_each_kind_of_block_is_recognised() -> None:
    source = "# One\ntext\n\n---\n```py\nx\n```\n\n|a|\n|-|\n|1|\n\n- \n"
    assert [block.kind for block in leaf_blocks(source)] == [
        Kind.HEADING,
        Kind.PARAGRAPH,
        Kind.THEMATIC_BREAK,
        Kind.CODE,
        Kind.TABLE,
        Kind.EMPTY_ITEM,
    ]


def test_the_marker_of_an_item_is_before_its_first_block_only() -> None:
    prefixes = [(text_of(block.first_prefix), text_of(block.prefix)) for block in leaf_blocks("> 1. a\n>\n>    b\n")]
    assert prefixes == [("│ 1. ", "│    "), ("│    ", "│    ")]


def test_bullets_depend_on_the_depth() -> None:
    markers = [text_of(block.first_prefix).strip() for block in leaf_blocks("- a\n  - b\n    - c\n      - d\n")]
    assert markers == ["•", "◦", "▪", "•"]


@pytest.mark.parametrize(
    ("source", "closed"),
    [
        ("text", False),
        ("text\n", False),
        ("text\n\n", True),
        ("# a\n", True),
        ("```\nx\n", False),
        ("```\nx\n```\n", True),
    ],
)
def test_a_block_is_closed_once_no_line_can_belong_to_it(source: str, closed: bool) -> None:
    assert leaf_blocks(source)[-1].closed is closed


@pytest.mark.parametrize(("line", "blank"), [("", True), (" > >\t", True), ("> a", False)])
def test_a_line_of_quote_markers_is_blank(line: str, blank: bool) -> None:
    assert is_blank(line) is blank
