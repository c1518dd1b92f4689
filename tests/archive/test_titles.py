"""Titles are one clean line, whatever a message holds."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_cli.archive.titles import TITLE_CELLS, clean, title_line
from gptoss_cli.terminal.cells import cells
from gptoss_cli.terminal.sanitize import one_line


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Sorting in Rust", "Sorting in Rust"),
        ("\n \n  two\twords \nmore", "two words"),
        ("a\x1b[2Jb\x9bc\u202ed\u2066e", "a [2Jb c d e"),
        ("", ""),
        (" \u200b\n\x00", ""),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 59 + "…"),
        ("日" * 31, "日" * 29 + "…"),
        ("नमस्ते 👩\u200d💻", "नमस्ते 👩\u200d💻"),
        ("lone \ud800 surrogate", "lone surrogate"),
    ],
)
def test_title_is_the_first_line_with_something_on_it(text: str, title: str) -> None:
    assert title_line(text) == title


@given(st.text())
def test_title_fits_and_is_safe_to_print(text: str) -> None:
    title = title_line(text)
    assert cells(title) <= TITLE_CELLS
    assert one_line(title) == title
    assert title_line(title) == title


@given(st.text())
def test_cleaning_keeps_the_length(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned) == len(text)
    assert not {unicodedata.category(each) for each in cleaned} & {"Cc", "Zl", "Zp", "Cs"}


def test_title_of_a_huge_message_takes_no_time() -> None:
    assert title_line("\u0301" * 10**7).startswith("\u0301")
