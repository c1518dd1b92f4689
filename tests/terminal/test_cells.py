"""Styled text is measured, wrapped at words and folded at columns."""

import pytest

from gptoss_cli.terminal.cells import (
    Role,
    Span,
    cells,
    cut,
    fold,
    in_two_columns,
    style_line,
    text_of,
    widest_word,
    wrap,
)


def _wrapped(text: str, width: int) -> list[str]:
    return [text_of(line) for line in wrap([Span(text)], width)]


@pytest.mark.parametrize(
    ("text", "columns"),
    [("", 0), ("abc", 3), ("漢字", 4), ("e\u0301", 1), ("👍", 2), ("👩\u200d🚀", 4), ("❤\ufe0f", 2)],
)
def test_text_is_as_wide_as_on_the_widest_terminal(text: str, columns: int) -> None:
    assert cells(text) == columns


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 10, [""]),
        ("one two three", 7, ["one two", "three"]),
        ("one  two", 8, ["one  two"]),
        ("one\ntwo\n\nthree", 20, ["one", "two", "", "three"]),
        ("a abcdefgh b", 4, ["a", "abcd", "efgh", "b"]),
        ("漢字漢字。漢", 8, ["漢字漢", "字。漢"]),
        ("x", 0, ["x"]),
        ("a\n    b c", 7, ["a", "    b c"]),
        ("漢「漢」漢", 6, ["漢", "「漢」", "漢"]),
        ("see https://a.b/cdefgh now", 8, ["see", "https://a.b/cdefgh", "now"]),
    ],
)
def test_text_wraps_at_spaces_and_newlines_and_in_long_words(text: str, width: int, lines: list[str]) -> None:
    assert _wrapped(text, width) == lines


def test_a_word_of_several_styles_is_not_broken() -> None:
    lines = wrap([Span("one t"), Span("w", Role.STRONG), Span("o")], 5)
    assert lines == [[Span("one")], [Span("t"), Span("w", Role.STRONG), Span("o")]]


def test_folding_breaks_anywhere_but_within_a_character() -> None:
    assert [text_of(line) for line in fold([Span("ab cd"), Span("ef")], 3)] == ["ab ", "cde", "f"]
    assert [text_of(line) for line in fold([Span("aae\u0301b")], 3)] == ["aae\u0301", "b"]


def test_neighbouring_spans_of_one_style_share_an_escape_sequence() -> None:
    assert style_line([Span("a", "1"), Span("b", "1"), Span("c"), Span("", "2")]) == "\x1b[1mab\x1b[0mc"


def test_long_words_may_stay_whole() -> None:
    assert [text_of(line) for line in wrap([Span("a /long/path b")], 6, whole_words=True)] == ["a", "/long/path", "b"]
    assert widest_word([Span("one thr"), Span("ee", Role.STRONG), Span(" 漢字")]) == 5


@pytest.mark.parametrize(("text", "width", "part"), [("abc", 2, "ab"), ("漢字", 3, "漢"), ("漢", 1, ""), ("a", -1, "")])
def test_text_is_cut_by_columns(text: str, width: int, part: str) -> None:
    assert cut(text, width) == part


def test_names_and_texts_are_two_columns_where_there_is_room() -> None:
    entries = [("/a", "one two three four five six"), ("/long NAME", "seven")]
    lines = ["".join(line) for line in in_two_columns(entries, 36)]
    assert lines == ["/a          one two three four five", "            six", "/long NAME  seven"]
    assert ["".join(line) for line in in_two_columns(entries, 24)] == [
        "/a",
        "    one two three four",
        "    five six",
        "/long NAME",
        "    seven",
    ]
