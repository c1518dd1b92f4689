"""A token generator over a model on this machine. It reads nothing twice, and knows ids only, no text.

t0 t1 t2 t3 t4 t5 | t6           t7 | t8 ...
cached            | pending         | to be drawn     sequence.py: what is read, and how it is rewound
                  | in flight |                       steppers.py: how the next id is drawn
"""

from collections import abc
from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from gptoss_cli.cache_files import PointKind
from gptoss_cli.engine.expert_offload import ExpertCache
from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.prefix_cache import PrefixCache, StoredSequence
from gptoss_cli.engine.sampler import Sampler
from gptoss_cli.engine.sequence import Sequence
from gptoss_cli.engine.steppers import OverlappedStepper, PlainStepper, Stepper
from gptoss_cli.errors import Hint, IntegrityError, ResourceError
from gptoss_cli.generation import Forced, Numerics, Sampling, TokenConstraint
from gptoss_cli.placement.model_config import ModelConfig


class Generator:
    """A TokenGenerator over a checkpoint on disk.

    With `overlapped` the device runs one step ahead of the host. The model must then be wholly on the device.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        context_tokens: int,
        chunk_tokens: int,
        overlapped: bool = False,
        numerics: Numerics | None = None,
        prefix_cache: PrefixCache | None = None,
    ) -> None:
        self.model = model
        self.numerics = numerics
        self.sequence = Sequence(model, context_tokens=context_tokens, chunk_tokens=chunk_tokens)
        self._context_tokens = context_tokens
        self._experts = ExpertCache(model.weights.placed_experts())
        self.stepper: Stepper = (
            OverlappedStepper(model, self.sequence, self._experts)
            if overlapped
            else PlainStepper(model, self.sequence, self._experts)
        )
        self._stored = StoredSequence(prefix_cache, self.sequence) if prefix_cache is not None else None
        self._prefix: list[int] = []

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def context_tokens(self) -> int:
        """See TokenGenerator.context_tokens."""
        return self._context_tokens

    @property
    def expert_hit_rate(self) -> float | None:
        """See TokenGenerator.expert_hit_rate."""
        return self._experts.hit_rate

    def keep_prefix(self, ids: abc.Sequence[int]) -> None:
        """Store the KV cache of `ids` on disk when a longer sequence that begins with them is computed."""
        self._prefix = list(ids)

    def save_kv(self) -> list[str]:
        """Write the KV cache up to the end of the last prefill to disk -> the names of its files, [] if it is not kept.

        Whatever the next prompt of the conversation drops or keeps, it begins with these tokens. Only files that are
        missing are written. May be called from another thread while the generator works: a sequence that is rewound
        meanwhile is not saved. Failures are logged.
        """
        return self._stored.save() if self._stored is not None else []

    def kv_names(self) -> list[str]:
        """Return the names of the files that `save_kv` writes now, for `cache_files.forget`."""
        return self._stored.names() if self._stored is not None else []

    def prefill(self, ids: abc.Sequence[int]) -> Iterator[tuple[int, int]]:
        """See TokenGenerator.prefill. Raises IntegrityError if an id is not in the model's vocabulary."""
        ids = list(ids)
        self._check_ids(ids, free_tokens=1)
        return self._prefill(ids)

    def _prefill(self, ids: list[int]) -> Iterator[tuple[int, int]]:
        sequence = self.sequence
        self.stepper.settle()
        sequence.rewind_to_prefix_of(ids)
        if self._stored is not None:
            self._stored.load(ids)
        prefix_tokens = self._unstored_prefix(ids)
        unread = ids[len(sequence.cached) :]
        done = 0
        if not unread:
            sequence.mark()
        yield done, len(unread)
        # A prefix to be stored ends a chunk, because the rings hold it only at that moment.
        for chunk in (*sequence.chunks(unread[:prefix_tokens]), *sequence.chunks(unread[prefix_tokens:])):
            sequence.read(chunk)
            done += len(chunk)
            if done == prefix_tokens and self._stored is not None:
                sequence.mark()
                self._stored.save(kind=PointKind.PREFIX)
            if done == len(unread):
                sequence.mark()
            yield done, len(unread)

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
        # Apple's GPUs have no float64, which a draw needs: there the logits are copied to the CPU.
        device = str(self.model.device) if self.model.device.type == "cuda" else "cpu"
        size = self.config.vocabulary_size
        sampler = Sampler(sampling, banned_ids=banned_ids, vocabulary_size=size, device=device)
        free_tokens = self._context_tokens - len(self.sequence)
        max_tokens = free_tokens if max_tokens is None else min(free_tokens, max_tokens)
        return self._decode(sampler, constraint, frozenset(stop_ids), max_tokens)

    def _decode(
        self, sampler: Sampler, constraint: TokenConstraint | None, stop_ids: frozenset[int], max_tokens: int
    ) -> Iterator[int]:
        while max_tokens > 0:
            rule = constraint.next() if constraint is not None else None
            ids = rule.ids[:max_tokens] if isinstance(rule, Forced) else (self.stepper.next_id(sampler, rule),)
            for id_ in ids:
                # Pending before it is yielded: a consumer that closes the iterator now has seen it.
                self.sequence.pending.append(id_)
                yield id_
                if id_ in stop_ids:
                    return
            max_tokens -= len(ids)

    def logits(self, ids: abc.Sequence[int]) -> Tensor:
        """Return logits [T, V] float32 after each of `ids` [T], read from position 0. The sequence is not changed."""
        ids = list(ids)
        self._check_ids(ids, free_tokens=0)
        cache = self.model.new_cache(max(2, len(ids)))
        hidden = (self.model.forward(chunk, cache) for chunk in self.sequence.chunks(ids))
        return torch.cat([self.model.unembed(part) for part in hidden])

    def _unstored_prefix(self, ids: list[int]) -> int:
        """Return how many of the ids that are read next end the prefix, which is stored then; 0 if none do."""
        cached, length = len(self.sequence.cached), len(self._prefix)
        if self._stored is None or not cached < length < len(ids) or ids[:length] != self._prefix:
            return 0
        return length - cached

    def _check_ids(self, ids: list[int], *, free_tokens: int) -> None:
        """Raise if `ids` cannot be run, or leave less room than `free_tokens`."""
        assert ids, "a sequence has at least one token"
        needed = len(ids) + free_tokens
        if needed > self._context_tokens:
            raise ResourceError(
                f"The conversation needs at least {needed} tokens, and the context holds {self._context_tokens}",
                Hint.SHORTER_CONVERSATION,
                Hint.LARGER_CONTEXT,
            )
        size = self.config.vocabulary_size
        unknown = next((id_ for id_ in ids if not 0 <= id_ < size), None)
        if unknown is not None:
            raise IntegrityError(
                f"The checkpoint's vocabulary has {size} tokens and no token {unknown}: it is not that of gpt-oss"
            )
