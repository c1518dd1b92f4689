"""What the rest of the program knows of the engine: token ids in, token ids out. Imports no torch."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn.

    Defaults are the model card's. `temperature` 0 is greedy; `top_k` None keeps every token. With the same seed the
    same logits give the same tokens.
    """

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None


class TokenGenerator(Protocol):
    """Continues a sequence of token ids and remembers what it has read.

    One sequence at a time: `prefill` makes the sequence equal to `ids`, `decode` extends it.
    """

    @property
    def context_tokens(self) -> int:
        """The most tokens a sequence may have."""

    def prefill(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Read what is not yet in the cache; yield (done_tokens, total_tokens) first with 0 done, then per chunk.

        Closing the iterator stops between chunks and leaves a cache that later calls can use.
        Raises ResourceError, before any work, if `ids` leave no room for one more token.
        """

    def decode(
        self, sampling: Sampling, *, stop_ids: Collection[int], banned_ids: Collection[int], max_tokens: int | None
    ) -> Iterator[int]:
        """Yield one new id at a time, a stop id included as the last.

        Ends after a stop id, after `max_tokens`, or when the context is full. Raises NumericalError on NaN or
        infinite logits. Closing the iterator stops; every yielded id belongs to the sequence.
        """
