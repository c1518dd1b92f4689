"""The picture of a memory: to scale, within its width, with words for all of it."""

import pytest

from gptoss_cli.terminal.memory import Part, picture

_PARTS = [
    Part("dense", 2_000, "2.0 GiB"),
    Part("experts", 9_000, "9.0 GiB"),
    Part("KV cache", 0, "0 MiB"),
    Part("working memory", 1, "1 MiB"),
    Part("free", 4_999, "5.0 GiB"),
]


@pytest.mark.parametrize("columns", [20, 41, 80, 200])
def test_the_bar_is_as_wide_as_asked_and_the_parts_are_to_scale(columns: int) -> None:
    title, bar, *_ = picture("cuda:0", _PARTS, columns).splitlines()
    assert (title, len(bar), bar[0], bar[-1]) == ("cuda:0", columns, "[", "]")
    counts = [bar.count(mark) for mark in "█▓▒▚·"]
    assert sum(counts) == columns - 2
    for part, count in zip(_PARTS, counts, strict=True):
        assert count == pytest.approx(part.size / 16_000 * (columns - 2), abs=1.5)


def test_what_is_there_is_shown_and_what_is_not_is_not() -> None:
    drawn = picture("Host", _PARTS, 40)
    assert "▚ working memory 1 MiB" in drawn
    assert drawn.splitlines()[1].count("▚") == 1
    assert "KV cache" not in drawn


def test_the_legend_keeps_within_the_width() -> None:
    for columns in (30, 60, 100):
        lines = picture("Host", _PARTS, columns).splitlines()
        assert all(len(line) <= columns for line in lines)
        assert all(part.words in " ".join(lines) for part in _PARTS if part.size)


def test_a_width_of_nothing_still_shows_every_part() -> None:
    assert picture("Host", _PARTS, 0).splitlines()[1] == "[█▓▚·]"


def test_no_parts_are_an_empty_bar() -> None:
    assert picture("Host", [Part("free", 0, "0 MiB")], 12).splitlines()[1] == "[]"
