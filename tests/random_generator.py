"""A generator with the whole vocabulary and no sense: it draws at random from what it is left, marks above all."""

import random
from collections.abc import Collection, Iterator, Sequence

from gptoss_cli.generation import Allowed, Banned, Forced, Sampling, TokenConstraint
from gptoss_cli.harmony.vocabulary import FIRST_SPECIAL_ID, VOCABULARY_SIZE

_SPECIAL = range(FIRST_SPECIAL_ID, FIRST_SPECIAL_ID + 20)


class RandomGenerator:
    """Follows bans and constraints; draws a special id one time in `rarity`, another id otherwise."""

    def __init__(self, *, rarity: int = 8, context_tokens: int = 131_072) -> None:
        self.context_tokens = context_tokens
        self.expert_hit_rate: float | None = None
        self.sequence: list[int] = []
        self.drawn: list[int] = []
        self.prefilled_tokens = 0
        self._rarity = rarity

    def prefill(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Read what is not a prefix of the sequence."""
        shared = 0
        while shared < min(len(ids) - 1, len(self.sequence)) and ids[shared] == self.sequence[shared]:
            shared += 1
        self.prefilled_tokens = len(ids) - shared
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
    ) -> Iterator[int]:
        """See TokenGenerator.decode."""
        chance = random.Random(sampling.seed)
        most = self.context_tokens - len(self.sequence)
        most = most if max_tokens is None else min(most, max_tokens)
        while len(self.drawn) < most:
            wish = constraint.next() if constraint else None
            ids = wish.ids if isinstance(wish, Forced) else (self._draw(chance, wish, banned_ids),)
            for token in ids[: most - len(self.drawn)]:
                self.sequence.append(token)
                self.drawn.append(token)
                yield token
                if token in stop_ids:
                    return

    def _draw(self, chance: random.Random, wish: Allowed | Banned | None, banned_ids: Collection[int]) -> int:
        if isinstance(wish, Allowed):
            return chance.choice(sorted(wish.ids))
        barred = wish.ids if wish else frozenset[int]()
        while True:
            special = chance.randrange(self._rarity) == 0
            token = chance.choice(_SPECIAL) if special else chance.randrange(FIRST_SPECIAL_ID)
            if token not in banned_ids and token not in barred:
                assert token < VOCABULARY_SIZE
                return token
