"""Words that are used alike begin alike."""

import random

import pytest
import torch
from torch import Tensor

from gptoss_cli.demo.batches import encoded, trained_ids
from gptoss_cli.demo.meanings import digits, meanings

WORDS = (" gpu", " card", " router", " experts")


@pytest.fixture(scope="module")
def rows() -> Tensor:
    ids, _ = trained_ids(random.Random(1), 30, 3)
    rows = meanings(random.Random(1), ids, 128, turns=3000)
    return torch.stack([rows[ids.index(encoded(word)[0])] for word in WORDS])  # type: ignore[arg-type]


def test_words_about_one_subject_are_nearer_than_others(rows: Tensor) -> None:
    gpu, card, router, experts = torch.nn.functional.normalize(rows)
    assert gpu @ card > gpu @ router + 0.3
    assert router @ experts > router @ card + 0.3


def test_numbers_with_a_digit_in_common_are_nearer_than_others() -> None:
    ids = [piece for number in ("47", "41", "97", "38", "the") for piece in encoded(number) if isinstance(piece, int)]
    forty_seven, forty_one, ninety_seven, thirty_eight, word = digits(ids, 2000)
    assert not word.any()
    for near in (forty_one, ninety_seven):
        assert forty_seven @ near > 1.5 * forty_seven @ thirty_eight
