"""The tokens and the experts of a turn as lines. Golden screens: GOLDEN=write."""

import math
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_cli.generation import LayerExperts, TokenInfo
from gptoss_cli.harmony.events import Token, TokenText
from gptoss_cli.terminal.architecture_table import show_lines
from gptoss_cli.terminal.cells import Line, cells, text_of
from gptoss_cli.terminal.turn_inspection import expert_lines, layer_uses, token_lines
from tests.cli.emulated_console import run_on_screen

_GOLDEN = Path(__file__).parents[1] / "golden"


def _token(text: str, probability: float = 0.9, *, channel: str | None = "final", forced: bool = False) -> Token:
    rank = 1 if probability >= 0.5 else 2
    best = [(TokenText(7, "list", b"list"), math.log(0.61)), (TokenText(8, "ing\n", b"ing\n"), math.log(0.21))]
    own = TokenText(len(text), text, text.encode())
    info = TokenInfo(own.id, math.log(probability), rank, (), forced, False, None)
    return Token(own, channel, info, tuple(best))


_TURN = [
    *(_token(text, channel=None, forced=True) for text in ("<|channel|>", "analysis", "<|message|>")),
    *(_token(" Hm", 0.2, channel="analysis") for _ in range(1200)),
    _token("<|end|>", 0.3, channel=None),
    *(_token(text, channel=None, forced=True) for text in ("<|start|>", "assistant", "<|channel|>", "final")),
    _token("<|message|>", channel=None, forced=True),
    *(_token(f" word{number}", [0.9, 0.3, 0.9, 0.9][number % 4]) for number in range(14)),
    _token(" sort", 0.6),
    _token("ed", 0.08),
    _token(".\n", 0.004),
    _token(" 漢字\x1b[2J", 0.04),
    _token("<|return|>", 0.97, channel=None),
]


def _texts(lines: list[Line]) -> list[str]:
    return [text_of(line) for line in lines]


def _golden(name: str, lines: list[Line]) -> None:
    """Compare the lines on a screen of 80 by 24 with a file."""
    terminal = run_on_screen(
        lambda console: show_lines(lines, console), columns=80, rows=24, environment={"NO_COLOR": "1"}
    )
    shown = "\n".join(line.rstrip() for line in terminal.screen.display).rstrip() + "\n"
    if os.environ.get("GOLDEN") == "write":
        (_GOLDEN / name).write_text(shown, "utf-8")
    assert shown == (_GOLDEN / name).read_text("utf-8")


def test_the_tokens_of_a_turn_look_as_they_did() -> None:
    _golden("tokens-80.txt", token_lines(_TURN, 80, colored=False))


def test_tokens_are_marked_in_four_steps_and_forced_ones_below_the_text() -> None:
    steps = [_token(text, p) for text, p in (("aa", 0.5), ("bb", 0.1), ("cc", 0.01), ("dd", 0.009))]
    lines = _texts(token_lines([*steps, _token("ee", forced=True)], 40, colored=False))
    assert lines[:2] == ["aabbccddee", "  ▁▁▄▄██=="]


def test_with_colours_the_styles_say_it_and_no_marks() -> None:
    lines = token_lines([_token("aa"), _token("bb", 0.2), _token("cc", forced=True)], 40, colored=True)
    assert [(span.text, span.sgr) for span in lines[0]] == [("aa", ""), ("bb", "33"), ("cc", "7")]
    assert lines[1] == []


def test_only_unlikely_tokens_have_alternatives() -> None:
    lines = _texts(token_lines([_token("sort"), _token("ed", 0.08), _token("so", 0.2)], 80, colored=False))
    assert lines[2:4] == ["  ed 0.080, number 2; likelier: list 0.61, ing\\n 0.21", ""]


def test_nothing_in_a_token_controls_the_terminal() -> None:
    lines = _texts(token_lines([_token("a\x1b[2J\r\x07b")], 80, colored=True))
    assert lines[0] == "a\\x1b[2J\\r\\x07b"


@given(
    st.lists(st.tuples(st.text(max_size=12), st.floats(1e-9, 1), st.booleans()), max_size=30),
    st.integers(20, 120),
    st.booleans(),
)
def test_no_line_of_tokens_is_wider_than_the_terminal(
    values: list[tuple[str, float, bool]], columns: int, colored: bool
) -> None:
    tokens = [_token(text, probability, forced=forced) for text, probability, forced in values]
    lines = token_lines(tokens, columns, colored=colored)
    assert all(cells(text_of(line)) <= columns for line in lines)


def _routed(layers: int, experts: int, tokens: int, active: int = 4) -> list[tuple[LayerExperts, ...]]:
    """Return experts of which low numbers are used most, and from one token to the next often the same."""
    randomness = random.Random(4)
    routed: list[tuple[LayerExperts, ...]] = []
    for _ in range(tokens):
        chosen = []
        for layer in range(layers):
            kept = list(routed[-1][layer].experts[: active // 2]) if routed else []
            while len(kept) < active:
                expert = min(experts - 1, int(randomness.expovariate(3 / experts)))
                kept += [expert] if expert not in kept else []
            chosen.append(LayerExperts(tuple(kept), (0.25,) * active, experts))
        routed.append(tuple(chosen))
    return routed


def test_the_experts_of_a_turn_look_as_they_did() -> None:
    _golden("experts-80.txt", expert_lines(_routed(18, 32, 200), 32, 80))


def test_the_use_of_a_layer_is_counted() -> None:
    chosen = [(0, 1), (0, 2), (3, 2), (2, 3)]
    (use,) = layer_uses([(LayerExperts(experts, (0.5, 0.5), 5),) for experts in chosen], 5)
    assert use.counts == (2, 1, 3, 2, 0)
    assert use.switches == pytest.approx(2 / 3)
    assert use.entropy == pytest.approx(-sum(p * math.log2(p) for p in (0.25, 0.125, 0.375, 0.25)))
    assert use.busiest == 1.0


@pytest.mark.parametrize(("experts", "columns", "per_cell"), [(32, 80, 1), (128, 80, 4), (128, 200, 1), (32, 40, 4)])
def test_experts_are_grouped_to_fit_the_terminal(experts: int, columns: int, per_cell: int) -> None:
    lines = _texts(expert_lines(_routed(3, experts, 20), experts, columns))
    assert (f"{per_cell} experts per cell" in " ".join(lines)) == (per_cell > 1)
    assert len(lines[1]) <= max(columns, 46)
    assert len(lines[1]) - len(lines[1].lstrip()) == 4
