"""What words are used for, so that training need not find it out: where the demo's embedding begins.

A token that occurs in the questions about few subjects says much about what is asked. Its meaning is how much likelier
it makes each subject, as a logarithm; the directions in which meanings differ most make the first rows. All numbers are
used alike, so what tells them apart is their digits.
"""

import random
from collections import Counter, defaultdict

import torch
from torch import Tensor

from gptoss_cli.demo.batches import encoded
from gptoss_cli.demo.conversations import lone_turn
from gptoss_cli.demo.turns import Turn

DIRECTIONS = 48  # about one for each subject
PLACES = (1, 10, 100)
PRIOR = 3.0  # turns of the usual mixture that are added to what was seen of a token


def meanings(rng: random.Random, ids: list[int], size: int, *, turns: int) -> Tensor:
    """Rows [N, size] float32 for token `ids`, found in so many generated `turns`; their mean square is about 1."""
    seen: defaultdict[int, Counter[str]] = defaultdict(Counter)
    subjects: Counter[str] = Counter()
    for turn in (lone_turn(rng) for _ in range(turns)):
        subjects[subject := _subject(turn)] += 1
        for token in set(encoded(turn.user)):
            if isinstance(token, int):
                seen[token][subject] += 1
    usual = torch.tensor([count / turns for count in subjects.values()])
    counts = torch.tensor([[seen[token][subject] for subject in subjects] for token in ids]).float()
    ratio = (counts + PRIOR * usual) / (counts.sum(1, keepdim=True) + PRIOR) / usual
    left, strength, _ = torch.linalg.svd(ratio.log(), full_matrices=False)
    # The strongest direction only tells frequent words from rare ones, so none may outdo the others.
    kept = strength[:DIRECTIONS]
    rows = left[:, : len(kept)] * kept.clamp_max(kept[len(kept) // 2])
    turned = torch.linalg.qr(torch.randn(size, rows.shape[1], generator=torch.Generator().manual_seed(0))).Q
    scaled: Tensor = rows @ turned.T / rows.square().sum(1).quantile(0.75).div(size).sqrt()
    return scaled


def digits(ids: list[int], size: int) -> Tensor:
    """Rows [N, size] float32 for token `ids`: of numbers a direction for every digit and its place, else zeros.

    Their mean square is about 1.
    """
    directions = torch.randn(len(PLACES), 10, size, generator=torch.Generator().manual_seed(1))
    number_of = {encoded(str(number))[0]: number for number in range(10 ** len(PLACES))}
    rows = torch.zeros(len(ids), size)
    for row, token in zip(rows, ids, strict=True):
        if token in number_of:
            for place, direction in zip(PLACES, directions, strict=True):
                row += direction[number_of[token] // place % 10] / len(PLACES) ** 0.5
    return rows


def _subject(turn: Turn) -> str:
    """What a question is about: its topic, or adding, telling or asking."""
    return turn.reasoning if turn.is_lookup else turn.kind + turn.reasoning[:4]
