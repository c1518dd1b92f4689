"""A generator over the whole vocabulary that draws at random from the ids it may use, special ones above all."""

import random
from collections.abc import Collection, Iterator, Sequence

from gptoss_cli.generation import Allowed, Forced, Observer, Restriction, Sampling, TokenConstraint, common_prefix
from gptoss_cli.harmony.vocabulary import FIRST_SPECIAL_ID, VOCABULARY_SIZE
from tests.scripted_generator import scripted_info

_SPECIAL = range(FIRST_SPECIAL_ID, FIRST_SPECIAL_ID + 20)


class RandomGenerator:
    """Follows bans and constraints; otherwise draws a special id one time in `rarity`, or an ordinary one."""

    def __init__(self, *, rarity: int = 8, context_tokens: int = 131_072) -> None:
        self.context_tokens = context_tokens
        self.expert_hit_rate: float | None = None
        self.sequence: list[int] = []
        self.drawn: list[int] = []
        self.prefilled_tokens = 0
        self._rarity = rarity

    def kv_names(self) -> list[str]:
        """See TokenGenerator.kv_names."""
        return []

    def save_kv(self) -> list[str]:
        """See TokenGenerator.save_kv."""
        return []

    def prefill(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Read the ids after the longest prefix they share with the sequence; the last one is always read."""
        self.prefilled_tokens = len(ids) - min(common_prefix(self.sequence, ids), len(ids) - 1)
        yield 0, self.prefilled_tokens
        self.sequence = list(ids)
        self.drawn = []
        yield self.prefilled_tokens, self.prefilled_tokens

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
        room = self.context_tokens - len(self.sequence)
        max_tokens = room if max_tokens is None else min(room, max_tokens)
        while len(self.drawn) < max_tokens:
            rule = constraint.next() if constraint else None
            ids = rule.ids if isinstance(rule, Forced) else (self._draw(randomness, rule, banned_ids),)
            for token in ids[: max_tokens - len(self.drawn)]:
                if observer is not None:
                    observer(scripted_info(token, rule, top, len(self.sequence)))
                self.sequence.append(token)
                self.drawn.append(token)
                yield token
                if token in stop_ids:
                    return

    def _draw(self, randomness: random.Random, restriction: Restriction | None, banned_ids: Collection[int]) -> int:
        if isinstance(restriction, Allowed):
            return randomness.choice(sorted(restriction.ids))
        banned = restriction.ids if restriction else frozenset[int]()
        while True:
            special = randomness.randrange(self._rarity) == 0
            token = randomness.choice(_SPECIAL) if special else randomness.randrange(FIRST_SPECIAL_ID)
            if token not in banned_ids and token not in banned:
                assert token < VOCABULARY_SIZE
                return token
