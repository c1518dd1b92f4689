"""Counts and sizes in words."""

import pytest

from gptoss_cli.units import counted


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (1_000, "1,000 files"), (-1, "-1 files")]
)
def test_one_thing_has_no_plural(count: int, words: str) -> None:
    assert counted(count, "file") == words
