"""The toolbar of a chat, at any width."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_cli.cli.toolbar import ChatStatus, toolbar_line
from gptoss_cli.terminal.cells import cells

_STATUS = ChatStatus(
    model="gpt-oss-120b",
    execution="offload",
    effort="medium",
    used_tokens=12_345,
    context_tokens=131_072,
    decode_rate=12.34,
    expert_hit_rate=0.87,
)


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (
            160,
            "gpt-oss-120b · offload · effort medium · 12,345 of 131,072 tokens · 12.3 tokens/s"
            " · 87% of the experts on the GPU",
        ),
        (80, "gpt-oss-120b · offload · effort medium · 12,345/131,072 · 12.3 tokens/s"),
        (60, "gpt-oss-120b · offload · medium · 12,345/131,072 · 12.3/s"),
        (40, "120b · offload · medium · 12,345/131,072"),
        (30, "120b · medium · 12,345/131,072"),
        (20, "12,345/131,072"),
        (10, "12,345"),
    ],
)
def test_a_narrow_terminal_shows_less_and_always_the_count(columns: int, line: str) -> None:
    assert toolbar_line(_STATUS, columns) == line


@given(
    columns=st.integers(6, 200),
    model=st.sampled_from(
        ["", "demo", "20b", "/home/me/models/a very long name of a checkpoint", "模型" * 20, "a\x1b[2J"]
    ),
    rate=st.none() | st.floats(0, 1e4),
    attached=st.integers(0, 12),
)
def test_the_line_fits_and_has_the_count(columns: int, model: str, rate: float | None, attached: int) -> None:
    status = dataclasses.replace(_STATUS, model=model, decode_rate=rate, attached=attached)
    line = toolbar_line(status, columns)
    assert cells(line) <= columns
    assert "12,345" in line
    assert "\x1b" not in line


def test_a_model_is_called_by_its_name_and_a_folder_by_its_last_part() -> None:
    assert toolbar_line(ChatStatus(model="20b"), 80) == "gpt-oss-20b · loading"
    assert toolbar_line(ChatStatus(model="/srv/models/mine/"), 80) == "mine · loading"
    assert (
        toolbar_line(ChatStatus(model="/srv/a-checkpoint-of-forty-letters"), 80) == "a-checkpoint-of-forty-l… · loading"
    )
    assert toolbar_line(ChatStatus(model="模型" * 20), 80) == f"{'模型' * 5}模… · loading"
    assert toolbar_line(ChatStatus(model=""), 80) == "loading"


@pytest.mark.parametrize(("count", "words"), [(1, "1 file attached"), (2, "2 files attached")])
def test_files_that_wait_for_the_next_message_are_counted(count: int, words: str) -> None:
    assert toolbar_line(ChatStatus(model="demo", attached=count), 80) == f"demo · loading · {words}"
