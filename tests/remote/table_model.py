"""A model of five tokens: a distribution that never changes, drawn with a seed."""

import random
from collections.abc import Collection, Iterator, Mapping, Sequence

from gptoss_cli.generation import Allowed, Forced, Observer, Restriction, Sampling, TokenConstraint

PROBABILITIES = {1000: 0.4, 1001: 0.3, 1002: 0.15, 1003: 0.1, 1004: 0.05}


class TableModel:
    """See TokenGenerator. It keeps no cache and draws from `probabilities` whatever came before."""

    context_tokens = 131_072
    expert_hit_rate: float | None = None

    def __init__(self, probabilities: Mapping[int, float] = PROBABILITIES) -> None:
        self._probabilities = probabilities

    def kv_names(self) -> list[str]:
        """See TokenGenerator.kv_names."""
        return []

    def save_kv(self) -> list[str]:
        """See TokenGenerator.save_kv."""
        return []

    def prefill(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """See TokenGenerator.prefill."""
        yield len(ids), len(ids)

    def decode(
        self,
        sampling: Sampling,
        *,
        stop_ids: Collection[int],
        banned_ids: Collection[int],
        max_tokens: int | None,
        constraint: TokenConstraint | None = None,
        observer: Observer | None = None,
        top: int = 5,
    ) -> Iterator[int]:
        """See TokenGenerator.decode."""
        randomness = random.Random(sampling.seed)
        for _ in range(max_tokens or 1000):
            rule = constraint.next() if constraint else None
            assert not isinstance(rule, Forced)
            weights = {id_: p for id_, p in self._probabilities.items() if _may(id_, rule, banned_ids)}
            yield randomness.choices(list(weights), list(weights.values()))[0]


def _may(token: int, rule: Restriction | None, banned_ids: Collection[int]) -> bool:
    if isinstance(rule, Allowed):
        return token in rule.ids
    return token not in banned_ids and (rule is None or token not in rule.ids)
