"""Fences, lists, tables and formulas of several lines where they deviate from CommonMark."""

import pytest

from gptoss_cli.terminal.cells import text_of
from gptoss_cli.terminal.markdown.blocks import Fence, leading_columns, without_indent
from gptoss_cli.terminal.markdown.layout import inline
from gptoss_cli.terminal.markdown.parse import Kind, LeafBlock, leaf_blocks


def _depth(fence: Fence, line: str, depth: int = 1) -> int:
    return fence.depth_after(line.lstrip(" \t"), leading_columns(line), depth)


def _lists(source: str) -> list[str]:
    return [text_of(block.first_prefix) + text_of(inline(block.inline)) for block in leaf_blocks(source)]


def _cells(block: LeafBlock) -> list[list[str]]:
    return [[text_of(inline(cell)) for cell in row] for row in block.rows]


@pytest.mark.parametrize(
    ("line", "depth"),
    [("```", 0), ("  ````  ", 0), ("    ```", 1), ("``", 1), ("~~~", 1), ("``` x", 1), ("```py", 1)],
)
def test_a_fence_is_closed_by_its_own_marker_or_a_longer_one(line: str, depth: int) -> None:
    assert _depth(Fence("```", 0), line) == depth


def test_a_fence_far_to_the_right_is_closed_by_one_as_far() -> None:
    assert _depth(Fence("```", 4), "\t```") == 0


def test_code_in_markdown_may_contain_fences_of_the_same_length() -> None:
    assert [_depth(Fence("```", 0, "markdown"), line) for line in ("```py", "```", "````md")] == [2, 0, 2]
    assert _depth(Fence("```", 0, "md"), "```", 2) == 1


@pytest.mark.parametrize(
    ("line", "columns", "rest"),
    [("    x", 2, "  x"), (" x", 2, "x"), ("x", 2, "x"), ("\tx", 4, "x"), ("\tx", 2, "  x"), ("  ", 4, "")],
)
def test_the_indentation_of_a_fence_is_removed_from_its_code(line: str, columns: int, rest: str) -> None:
    assert without_indent(line, columns) == rest


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("1. a\n   ```py\n   x\n   ```\n", "x\n"),
        ("- a\n      ```py\n      x\n      ```\n", "x\n"),
        ("1. a\n   ```py\nx\n  y\n   ```\nprose", "x\n  y\n"),
        ("1. a\n   ```py\n   x\n  ```\nprose", "x\n"),
        ("> ```py\n> x\n> ```\nprose", "x\n"),
        ("\t```py\n\tx\n\t```\n", "x\n"),
        ("-\t```py\n\tx\n\t```\n", "x\n"),
        ("````\n```\nx\n```\n````\n", "```\nx\n```\n"),
        ("```md\n```py\nx\n```\n```\nprose", "```py\nx\n```\n"),
        ('```py\n"""\n    ```\n"""\n```\nprose', '"""\n    ```\n"""\n'),
        ("text\n      ```\n      x\n      ```\n", "x\n"),
    ],
)
def test_code_is_what_stands_between_its_fences(source: str, code: str) -> None:
    assert [block.code for block in leaf_blocks(source) if block.fence is not None] == [code]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("      - a\n      - b\n        - c\n", ["• a", "• b", "  ◦ c"]),
        ("Text\n      - a\n      - b\n", ["Text", "• a", "• b"]),
        ("- a\n      - b\n- c\n", ["• a", "  ◦ b", "• c"]),
        ("1. a\n\n        2. b\n", ["1. a", "   2. b"]),
        ("Text\n\n    no code\n", ["Text", "no code"]),
    ],
)
def test_no_indentation_makes_code(source: str, shown: list[str]) -> None:
    assert _lists(source) == shown


def test_a_row_with_too_many_cells_keeps_them() -> None:
    (block,) = leaf_blocks("| a | b |\n|-|-|\n| 1 |\n| 1 | 2 | 3 |\n| `x | y` | $|z|$ |\n| x \\| y | z |\n")
    assert block.kind is Kind.TABLE
    assert _cells(block)[1:] == [["1", ""], ["1", "2 | 3"], ["x | y", "$|z|$"], ["x | y", "z"]]


def test_a_block_may_follow_a_formula_that_is_left_open() -> None:
    assert [block.kind for block in leaf_blocks("\\[\nx\n```\ny\n```\n\n- z")] == [
        Kind.PARAGRAPH,
        Kind.CODE,
        Kind.PARAGRAPH,
    ]
