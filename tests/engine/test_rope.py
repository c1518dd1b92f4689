"""Rotations turn by position, and YaRN stretches only the frequencies that turn slowly."""

import math

import pytest
import torch

from gptoss_cli.engine.rope import RotaryEmbedding, rotary_frequencies
from gptoss_cli.placement.model_config import Rope, Yarn

HEAD_DIM = 64
YARN = Yarn(32.0, 32.0, 1.0, original_context_tokens=4096, truncate=False, concentration=1.25)
GPT_OSS = Rope(150_000.0, YARN)


def test_without_yarn_the_frequencies_are_powers_of_theta() -> None:
    expected = [10_000 ** (-2 * i / HEAD_DIM) for i in range(HEAD_DIM // 2)]
    assert rotary_frequencies(Rope(10_000.0, None), HEAD_DIM).tolist() == pytest.approx(expected)


def test_yarn_keeps_fast_frequencies_and_divides_slow_ones_by_the_factor() -> None:
    plain, stretched = (rotary_frequencies(Rope(GPT_OSS.theta, yarn), HEAD_DIM) for yarn in (None, YARN))
    turns = plain * YARN.original_context_tokens / (2 * math.pi)  # within the original context
    fast, slow = turns > YARN.beta_fast, turns < YARN.beta_slow
    assert fast.any()
    assert slow.any()
    assert torch.allclose(stretched[fast], plain[fast])
    assert torch.allclose(stretched[slow], plain[slow] / YARN.factor)
    between = stretched[~fast & ~slow] / plain[~fast & ~slow]
    assert ((between < 1) & (between > 1 / YARN.factor)).all()


def test_a_rotation_is_that_of_its_position_times_the_concentration() -> None:
    rope = RotaryEmbedding(GPT_OSS, HEAD_DIM, torch.device("cpu"))
    cos, sin = rope.of_range(5, 3)
    assert cos.shape == sin.shape == (3, HEAD_DIM // 2)
    assert torch.allclose(cos.square() + sin.square(), torch.full_like(cos, YARN.concentration**2))
    one_cos, one_sin = rope.of_positions(torch.tensor([7]))
    assert torch.equal(one_cos, cos[2:])
    assert torch.equal(one_sin, sin[2:])
