"""The rotation periods are those of the engine."""

import math

import pytest

from gptoss_cli.architecture.known import GPT2_XL, GPT_OSS_20B, QWEN3_30B_A3B
from gptoss_cli.architecture.rope import rotations
from gptoss_cli.engine.rope import rotary_frequencies
from gptoss_cli.placement.model_config import published_config


def test_periods_equal_the_frequencies_of_the_engine() -> None:
    config = published_config(layers=24, experts=32)
    frequencies = rotary_frequencies(config.rope, config.head_dim).tolist()
    periods = [rotation.period for rotation in rotations(GPT_OSS_20B)]
    assert periods == pytest.approx([2 * math.pi / frequency for frequency in frequencies], rel=1e-5)


def test_yarn_keeps_fast_pairs_and_stretches_slow_ones_by_its_factor() -> None:
    first, *_, last = rotations(GPT_OSS_20B)
    assert (first.stretch, round(last.stretch, 9)) == (1, 32)
    assert first.period == pytest.approx(2 * math.pi)
    assert last.plain_period == pytest.approx(2 * math.pi * 150_000 ** (31 / 32))


def test_without_yarn_nothing_is_stretched() -> None:
    assert {rotation.stretch for rotation in rotations(QWEN3_30B_A3B)} == {1}
    assert list(rotations(GPT2_XL)) == []
