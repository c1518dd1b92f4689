"""What words are used for, so that training need not find it out: where the demo's embedding begins.

A token that occurs in the questions about few subjects says much about what is asked. Its meaning is how much likelier
it makes each subject, as a logarithm; the directions in which meanings differ most make the first rows.
"""

import random
from collections import Counter, defaultdict

import torch
from torch import Tensor

from gptoss_cli.demo.batches import encoded
from gptoss_cli.demo.conversations import lone_turn
from gptoss_cli.demo.turns import Turn

DIRECTIONS = 48  # about one for each subject
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
    rows = left[:, :DIRECTIONS] * strength[:DIRECTIONS].clamp_max(strength[DIRECTIONS // 2])
    turned = torch.linalg.qr(torch.randn(size, rows.shape[1], generator=torch.Generator().manual_seed(0))).Q
    return rows @ turned.T / rows.square().sum(1).quantile(0.75).div(size).sqrt()


def _subject(turn: Turn) -> str:
    """What a question is about: its topic, or adding, telling or asking."""
    return turn.kind + turn.reasoning[:4] if turn.kind in ("sum", "memory") else turn.reasoning
