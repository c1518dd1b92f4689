"""Leaf blocks are laid out as lines that fit the screen."""

from gptoss_cli.terminal.cells import Role, text_of
from gptoss_cli.terminal.markdown.layout import are_separated, blank_line, lay_out
from gptoss_cli.terminal.markdown.parse import leaf_blocks

_TABLE = "| name | value |\n|:-:|--:|\n| x | 1 |\n"


def _lines(source: str, columns: int) -> list[str]:
    return [text_of(line) for line in lay_out(leaf_blocks(source)[0], columns)]


def test_a_paragraph_wraps_below_the_marker_of_its_item() -> None:
    assert _lines("- one two three four", 14) == ["• one two", "  three four"]


def test_the_cells_of_a_table_are_aligned() -> None:
    assert _lines(_TABLE, 40) == ["name │ value", "─────┼──────", " x   │     1"]


def test_a_table_that_is_too_wide_becomes_a_list_of_cells() -> None:
    assert _lines(_TABLE, 9) == ["name: x", "value: 1"]


def test_a_table_never_cuts_a_word() -> None:
    source = "| Identifier | Meaning |\n|-|-|\n| a_very_long_identifier | some words |\n"
    assert _lines(source, 36)[2:] == ["a_very_long_identifier │ some words"]
    assert _lines(source, 34) == ["Identifier: a_very_long_identifier", "Meaning: some words"]


def test_a_break_in_a_cell_is_a_line_of_the_cell() -> None:
    lines = _lines("| a | b |\n|-|-|\n| one<br>two | three |\n", 40)
    assert [line.rstrip() for line in lines[2:]] == ["one │ three", "two │"]


def test_an_address_has_no_line_break_in_it() -> None:
    address = "https://example.org/a_long/path/that/is/wider"
    assert _lines(f"- see {address} now", 20) == ["• see", f"  {address}", "  now"]
    assert _lines(f"[text]({address})", 20) == ["text", f"({address})"]


def test_code_has_a_label_with_its_language() -> None:
    assert _lines("```py title=x\na\n```", 40) == ["── py title=x", "a"]
    assert _lines("```\na\n```", 40) == ["a"]
    assert _lines("- ```py\n  ```", 40) == ["• ── py"]


def test_a_link_is_followed_by_its_address_unless_that_is_its_text() -> None:
    assert _lines("[a](http://b) <http://c>", 80) == ["a (http://b) http://c"]


def test_entities_cannot_control_the_terminal() -> None:
    assert _lines("&#27;[2J &#x202e;", 80) == ["\ufffd[2J \\u202e"]


def test_emphasis_and_code_have_styles() -> None:
    (line,) = lay_out(leaf_blocks("**b** `c`")[0], 80)
    assert [(span.text, span.sgr) for span in line] == [("b", Role.STRONG), (" ", ""), ("c", Role.CODE)]


def test_blocks_are_separated_by_a_line_with_the_bars_of_common_quotes() -> None:
    first, second, third = leaf_blocks("> a\n>\n> # b\n\nc\n")
    assert are_separated(first, second, blank=False)
    assert not are_separated(first, third, blank=False)
    assert are_separated(first, third, blank=True)
    assert text_of(blank_line(first, second)) == "│ "
    assert blank_line(second, third) == []
