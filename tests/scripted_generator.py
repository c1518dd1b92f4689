"""A generator that plays scripted turns. It reads no weights and imports no torch."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, islice

from gptoss_cli.errors import Hint, ResourceError
from gptoss_cli.generation import (
    Forced,
    LayerExperts,
    Observer,
    Restriction,
    Sampling,
    TokenConstraint,
    TokenInfo,
    common_prefix,
)

Rule = Forced | Restriction | None


class ScriptedGenerator:
    """Yields the ids of `turns`, one turn for each `decode`, for any prompt.

    Keeps a sequence as the real generator does, so `prefilled_tokens` says what each prefill would have to read. A turn
    may be any iterable: one that raises plays a failing model. `prompts`, `prefilled_tokens` and `samplings` have one
    entry per turn.
    """

    def __init__(
        self, turns: Iterable[Iterable[int]], *, context_tokens: int = 131_072, chunk_tokens: int = 512
    ) -> None:
        self.prompts: list[list[int]] = []
        self.prefilled_tokens: list[int] = []
        self.samplings: list[Sampling] = []
        self._turns = iter(turns)
        self._context_tokens = context_tokens
        self._chunk_tokens = chunk_tokens
        self._sequence: list[int] = []

    @property
    def context_tokens(self) -> int:
        """See TokenGenerator.context_tokens."""
        return self._context_tokens

    @property
    def expert_hit_rate(self) -> float | None:
        """See TokenGenerator.expert_hit_rate."""
        return None

    @property
    def sequence(self) -> Sequence[int]:
        """The ids that were read or yielded, without those that a later prompt dropped."""
        return tuple(self._sequence)

    def kv_names(self) -> list[str]:
        """See TokenGenerator.kv_names."""
        return []

    def save_kv(self) -> list[str]:
        """See TokenGenerator.save_kv."""
        return []

    def prefill(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Read `ids` after the longest prefix they share with the sequence; the last one is always read."""
        if len(ids) >= self._context_tokens:
            raise ResourceError(
                f"The conversation needs at least {len(ids) + 1} tokens, and the context holds {self._context_tokens}",
                Hint.SHORTER_CONVERSATION,
                Hint.LARGER_CONTEXT,
            )
        reused = min(common_prefix(self._sequence, ids), len(ids) - 1)
        total = len(ids) - reused
        self.prompts.append(list(ids))
        self.prefilled_tokens.append(total)
        self._sequence = list(ids[:reused])
        yield 0, total
        for start in range(reused, len(ids), self._chunk_tokens):
            self._sequence.extend(ids[start : start + self._chunk_tokens])
            yield len(self._sequence) - reused, total

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
        """Yield the next turn up to a stop id, its end, `max_tokens` or a full context.

        Forced ids come first, and the script continues after them, without the ids that they repeat from it. Allowed
        and Banned do not change a script. `observer` sees what `scripted_info` makes up.
        """
        room = self._context_tokens - len(self._sequence)
        max_tokens = room if max_tokens is None else min(room, max_tokens)
        first = constraint.next() if constraint else None
        for token, rule in islice(self._ids(first, constraint, sampling, max_tokens), max_tokens):
            if observer is not None:
                observer(scripted_info(token, rule, top, len(self._sequence)))
            self._sequence.append(token)
            yield token
            if token in stop_ids:
                return

    def _ids(
        self, first: Rule, constraint: TokenConstraint | None, sampling: Sampling, max_tokens: int
    ) -> Iterator[tuple[int, Rule]]:
        if isinstance(first, Forced) and len(first.ids) >= max_tokens:
            # A finished turn is read again: that is no turn of the script.
            return ((id_, first) for id_ in first.ids)
        turn = next(self._turns, None)
        assert turn is not None, "the script has ended"
        self.samplings.append(sampling)
        return _constrained(iter(turn), constraint, first)


def scripted_info(token: int, rule: Rule, top: int, position: int) -> TokenInfo:
    """Return made-up data for an id: probabilities of 1/2, 1/4 and so on, and 3 layers of 8 experts, 2 of them active.

    The id is the likeliest if it is even, else the second. The experts depend on the position alone.
    """
    rank = 1 + token % 2
    ids = [token, token + 1, *range(token + 2, token + top)][:top] if rank == 1 else [token - 1, token]
    likeliest = tuple((id_, -math.log(2) * (place + 1)) for place, id_ in enumerate(ids[:top]))
    experts = tuple(
        LayerExperts(((position // (layer + 1)) % 8, (position // (layer + 1) + 3) % 8), (0.75, 0.25), 8)
        for layer in range(3)
    )
    return TokenInfo(
        id=token,
        logprob=-math.log(2) * rank,
        rank=rank,
        top=likeliest,
        forced=isinstance(rule, Forced),
        restricted=rule is not None and not isinstance(rule, Forced),
        experts=experts,
    )


def _constrained(script: Iterator[int], constraint: TokenConstraint | None, rule: Rule) -> Iterator[tuple[int, Rule]]:
    """Yield ids with their rules; the first rule is `rule`."""
    while True:
        if isinstance(rule, Forced):
            coming = list(islice(script, len(rule.ids)))
            script = chain(coming[common_prefix(coming, rule.ids) :], script)
            yield from ((id_, rule) for id_ in rule.ids)
            rule = constraint.next() if constraint else None
            continue
        token = next(script, None)
        if token is None:
            return
        yield token, rule
        rule = constraint.next() if constraint else None
