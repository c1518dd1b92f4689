"""What the rest of the program knows of the engine: token ids in, token ids out. Imports no torch."""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

LARGEST_SEED: Final = 2**32 - 1


def random_seed() -> int:
    """Return a seed, from 0 to LARGEST_SEED, that nobody can predict."""
    return int.from_bytes(os.urandom(4))


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the longest prefix that two sequences of ids share."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))


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


@dataclass(frozen=True, slots=True)
class Numerics:
    """How a generator computes: which kernels (their instructions), in what the activations and dense weights are.

    `shortcoming` says in one line why the kernels are not the best ones for this device, if they are not.
    """

    kernels: str
    activations: str
    dense: str
    threads: int
    shortcoming: str | None = None

    @property
    def summary(self) -> str:
        """All but the threads, which change no result."""
        return f"{self.kernels} kernels, {self.activations} activations, {self.dense} dense weights"


@dataclass(frozen=True, slots=True)
class Forced:
    """`ids` come next, whatever the logits say: none are computed for them. They are yielded like any other."""

    ids: tuple[int, ...]


# By identity: a steering hands out the same instance again and again, and what a sampler makes of it is kept.
@dataclass(frozen=True, slots=True, eq=False)
class Allowed:
    """Only `ids` may be drawn now, those in `banned_ids` included."""

    ids: frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class Banned:
    """`ids` may not be drawn now, in addition to `banned_ids`."""

    ids: frozenset[int]


class TokenConstraint(Protocol):
    """Says what may come next. The single place where a consumer of `decode` reaches into it."""

    def next(self) -> Forced | Allowed | Banned | None:
        """Asked before every draw; None leaves the draw free.

        The consumer of `decode` has seen every earlier id by then. After Forced it is asked again when all its ids
        were yielded.
        """


class TokenGenerator(Protocol):
    """Continues a sequence of token ids and remembers what it has read.

    One sequence at a time: `prefill` makes the sequence equal to `ids`, `decode` extends it.
    """

    @property
    def context_tokens(self) -> int:
        """The most tokens a sequence may have."""

    @property
    def expert_hit_rate(self) -> float | None:
        """Of the experts that were decoded with, the share that was in the GPU's memory; None if all of them are."""

    def prefill(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Read what is not yet in the cache; yield (done_tokens, total_tokens) first with 0 done, then per chunk.

        Closing the iterator stops between chunks and leaves a cache that later calls can use.
        Raises ResourceError, before any work, if `ids` leave no room for one more token.
        """

    def decode(
        self,
        sampling: Sampling,
        *,
        stop_ids: Collection[int],
        banned_ids: Collection[int],
        max_tokens: int | None,
        constraint: TokenConstraint | None = None,
    ) -> Iterator[int]:
        """Yield one new id at a time, a stop id included as the last.

        Ends after a stop id, after `max_tokens`, or when the context is full; forced ids count. Raises NumericalError
        on NaN or infinite logits. Closing the iterator stops; every yielded id belongs to the sequence.
        """
