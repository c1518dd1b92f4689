"""Tables fit stdout and cannot control the terminal; the bar of a memory is to scale."""

import pytest

from gptoss_cli.errors import ExitStatus
from gptoss_cli.harmony.events import EndReason, TurnEnd
from gptoss_cli.settings import ReasoningEffort
from gptoss_cli.terminal.tables import EffortAnswer, MemoryPart, memory_bar, show_answers, show_table
from tests.terminal.streams import Streams

_PARTS = [
    MemoryPart("dense", 2_000, "2.0 GiB"),
    MemoryPart("experts", 9_000, "9.0 GiB"),
    MemoryPart("KV cache", 0, "0 MiB"),
    MemoryPart("working memory", 1, "1 MiB"),
    MemoryPart("free", 4_999, "5.0 GiB"),
]


@pytest.mark.parametrize("columns", [20, 41, 80, 200])
def test_the_bar_has_the_width_and_its_parts_are_to_scale(columns: int) -> None:
    title, bar, *_ = memory_bar("cuda:0", _PARTS, columns).splitlines()
    assert (title, len(bar), bar[0], bar[-1]) == ("cuda:0", columns, "[", "]")
    counts = [bar.count(mark) for mark in "█▓▒▚·"]
    assert sum(counts) == columns - 2
    for part, count in zip(_PARTS, counts, strict=True):
        assert count == pytest.approx(part.size_bytes / 16_000 * (columns - 2), abs=1.5)


def test_small_parts_are_shown_and_empty_ones_are_not() -> None:
    drawn = memory_bar("Host", _PARTS, 40)
    assert "▚ working memory 1 MiB" in drawn
    assert drawn.splitlines()[1].count("▚") == 1
    assert "KV cache" not in drawn


def test_the_legend_fits_the_width() -> None:
    for columns in (30, 60, 100):
        lines = memory_bar("Host", _PARTS, columns).splitlines()
        assert all(len(line) <= columns for line in lines)
        assert all(part.size_words in " ".join(lines) for part in _PARTS if part.size_bytes)


def test_every_part_is_shown_in_a_width_of_zero() -> None:
    assert memory_bar("Host", _PARTS, 0).splitlines()[1] == "[█▓▚·]"


def test_no_parts_are_an_empty_bar() -> None:
    assert memory_bar("Host", [MemoryPart("free", 0, "0 MiB")], 12).splitlines()[1] == "[]"


def _end(reasoning_tokens: int) -> TurnEnd:
    return TurnEnd(
        reason=EndReason.COMPLETE,
        answered=True,
        cuts=(),
        prompt_tokens=9,
        prefilled_tokens=9,
        reasoning_tokens=reasoning_tokens,
        answer_tokens=4,
        seed=1,
        first_token_seconds=0.1,
        total_seconds=1.25,
    )


def test_a_table_has_its_rows_and_a_note_without_control_characters() -> None:
    streams = Streams()
    show_table({"model": "gpt\x1b[2J", "decode": "12 tokens/s"}, "A note.", streams.console)
    assert "│ model  │ gpt␛[2J     │" in streams.out
    assert streams.out.endswith("A note.\n")


def test_answers_at_several_efforts_are_columns_with_their_costs() -> None:
    streams = Streams()
    low = EffortAnswer(ReasoningEffort.LOW, "Yes [b]", "", _end(1_200), None, "")
    high = EffortAnswer(ReasoningEffort.HIGH, "No\x1b", "", _end(9), ExitStatus.CUT_SHORT, "cut short")
    show_answers([low, high], streams.console)
    rows = [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in streams.out.splitlines()
    ]
    for row in (
        ["low", "high"],
        ["Yes [b]", "No␛"],
        ["1,200 tokens of reasoning", "9 tokens of reasoning"],
        ["", "cut short"],
    ):
        assert row in rows
