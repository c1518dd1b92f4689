"""Words that are used alike begin alike."""

import random

import pytest
import torch
from torch import Tensor

from gptoss_cli.demo.batches import encoded
from gptoss_cli.demo.meanings import meanings

WORDS = (" download", " fetch", " router", " experts", " the")


@pytest.fixture(scope="module")
def rows() -> Tensor:
    ids = [piece for word in WORDS for piece in encoded(word) if isinstance(piece, int)]
    assert len(ids) == len(WORDS)
    return meanings(random.Random(1), ids, 64, turns=1500)


def test_words_about_one_subject_are_nearer_than_others(rows: Tensor) -> None:
    download, fetch, router, experts, _ = torch.nn.functional.normalize(rows)
    assert download @ fetch > download @ router + 0.3
    assert router @ experts > router @ fetch


def test_a_word_of_every_subject_means_little(rows: Tensor) -> None:
    assert rows[4].norm() < 0.6 * rows[:4].norm(dim=1).mean()
