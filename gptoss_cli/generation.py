"""The interface between a model and everything that talks to it: token ids in, token ids out. Imports no torch."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self, runtime_checkable

# The ids of the vocabulary. A checkpoint may have more rows, as padding: their ids mean nothing and are never drawn.
VOCABULARY_SIZE: Final = 201_088


def random_seed() -> int:
    """Return a seed, from 0 to settings.LARGEST_SEED, that nobody can predict."""
    return int.from_bytes(os.urandom(4))


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the longest prefix that two sequences of ids share."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings for drawing the next token. The defaults are those of the model card.

    `temperature` 0 is greedy; `top_k` None keeps every token. The same seed and the same logits give the same tokens.
    """

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None


@dataclass(frozen=True, slots=True)
class Numerics:
    """The kernels of a generator (their instruction set), and the formats of its activations and dense weights.

    `shortcoming` says in one line why these are not the fastest kernels for the device; None if they are.
    `chosen_by` is the setting that chose the kernels; None if the machine did.
    """

    kernels: str
    activations: str
    dense: str
    threads: int
    shortcoming: str | None = None
    chosen_by: str | None = None

    @property
    def summary(self) -> str:
        """Everything that can change a result: all but the threads."""
        return f"{self.kernels} kernels, {self.activations} activations, {self.dense} dense weights"


@dataclass(frozen=True, slots=True)
class Forced:
    """`ids` come next. No logits are computed for them, and they are yielded like drawn ids."""

    ids: tuple[int, ...]


# Compared by identity: a constraint returns the same few instances over and over, and a sampler keeps the mask that it
# builds for each instance. Comparing sets of 200,000 ids would cost more than the draw.
@dataclass(frozen=True, slots=True, eq=False)
class Allowed:
    """Only `ids` may be drawn, even those that are in `banned_ids`."""

    ids: frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class Banned:
    """`ids` may not be drawn, in addition to `banned_ids`."""

    ids: frozenset[int]


Restriction = Allowed | Banned


@dataclass(frozen=True, slots=True)
class LayerExperts:
    """The active experts of one layer for one token, largest weight first, and their weights."""

    experts: tuple[int, ...]
    weights: tuple[float, ...]
    count: int  # of the layer's experts, active or not


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """An id of a decode, and the distribution that it comes from.

    That is the model's own: at temperature 1, before `banned_ids`, constraints, top-k and top-p. `logprob` is a natural
    logarithm; `rank` is 1 for the likeliest id. `top` are the likeliest ids with their logprobs, the best first.
    `forced` and `restricted` (Allowed or Banned) are by the TokenConstraint. `experts` are those of each layer that
    computed the distribution, None if they are unknown: after a prefill, and for models that do not report them.
    """

    id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]
    forced: bool
    restricted: bool
    experts: tuple[LayerExperts, ...] | None


Observer = Callable[[TokenInfo], None]


@dataclass(frozen=True, slots=True)
class AttentionMeasurement:
    """Measurements of one layer's attention over a prompt. `window` is None in a full layer.

    `sink_mass` is the mean probability that the sink of each head took. `key_bias_norm` is the mean norm of the key
    bias of a head. `shift` is how far attention moves without that bias: the mean total variation distance, from 0 to
    1; the others are the same for a model without RoPE, and without RoPE and sinks.
    """

    layer: int
    window: int | None
    sink_mass: tuple[float, ...]
    key_bias_norm: float
    shift: float
    shift_without_rope: float
    shift_without_rope_and_sinks: float


class TokenConstraint(Protocol):
    """A rule for the ids that may come next. The only way for a consumer of `decode` to influence it."""

    def next(self) -> Forced | Restriction | None:
        """Return the rule for the next id; None leaves the draw free.

        Called before every draw, when the consumer of `decode` has seen every earlier id. After Forced it is called
        again once all of its ids have been yielded.
        """


class TokenGenerator(Protocol):
    """A model that continues a sequence of token ids and keeps the KV cache of what it has read.

    There is one sequence at a time: `prefill` makes it equal to `ids`, and `decode` extends it.
    """

    @property
    def context_tokens(self) -> int:
        """The largest number of tokens in a sequence."""

    @property
    def expert_hit_rate(self) -> float | None:
        """The fraction of experts used in decode that were in GPU memory; None if all experts are there."""

    def kv_names(self) -> list[str]:
        """Return the names of the files that `save_kv` writes now, [] if it writes none."""

    def save_kv(self) -> list[str]:
        """Keep on disk what has been prefilled, so that a later process need not read it again -> names of the files.

        Raises nothing, and another thread may call it during a decode.
        """

    def prefill(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Read the ids that are not in the cache; yield (done_tokens, total_tokens), at 0 and after each chunk.

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
        observer: Observer | None = None,
        top: int = 5,
    ) -> Iterator[int]:
        """Yield one new id at a time, including a final stop id.

        `observer` is called with each id before it is yielded, forced ids included, and with its `top` likeliest
        alternatives. That makes a decode slower; without an observer it costs nothing.

        Ends after a stop id, after `max_tokens`, or when the context is full; forced ids count. Raises NumericalError
        on NaN or infinite logits. Closing the iterator stops the decode; every yielded id belongs to the sequence.
        """


class BranchingGenerator(TokenGenerator, Protocol):
    """A TokenGenerator that can have more sequences, over the same weights."""

    @property
    def prompt_tokens(self) -> int:
        """The length of the last prompt that was read, 0 without one."""

    def several(self, count: int, *, threads: int = 1) -> Sequence[Self]:
        """Return `count` generators with a sequence each, this one first.

        They may be used in turn or, by that many `threads`, at the same time, each by one thread. Call it once.
        """

    def keep_prefix(self, ids: Sequence[int], *, on_disk: bool = True) -> None:
        """Let later prompts that begin with `ids`, and go on otherwise, read only what follows them.

        With `on_disk` other programs too, if KV caches are kept there.
        """

    def kept_tokens(self, ids: Sequence[int]) -> int:
        """Return how many of `ids` would not be read again: all, up to the end of a prompt, or up to a kept prefix."""

    def copy_prefix(self, other: Self, ids: Sequence[int]) -> None:
        """Take from `other`, one of the generators of `several`, the longest prefix of `ids` that it has kept."""


@runtime_checkable
class Interruptible(Protocol):
    """A TokenGenerator that may wait for something, such as a server, without a next token or chunk."""

    def interrupt(self) -> None:
        """End the running prefill or decode soon. Any thread may call it; the next prefill runs again."""
