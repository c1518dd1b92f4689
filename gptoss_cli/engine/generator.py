"""A token generator over a model on this machine. It reads nothing twice, and knows ids only, no text.

t0 t1 t2 t3 t4 t5 | t6           t7 | t8 ...
cached            | pending         | to be drawn     sequence.py: what is read, and how it is rewound
                  | in flight |                       steppers.py: how the next id is drawn
"""

from collections import abc
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from gptoss_cli.cache_files import PointKind
from gptoss_cli.engine.batching import DecodeBatcher
from gptoss_cli.engine.device_errors import device_errors
from gptoss_cli.engine.experiments import measure_attention
from gptoss_cli.engine.expert_offload import ExpertHits
from gptoss_cli.engine.model import Routing, Transformer
from gptoss_cli.engine.observation import token_info
from gptoss_cli.engine.prefix_cache import PrefixCache, StoredSequence
from gptoss_cli.engine.sampler import Sampler
from gptoss_cli.engine.sequence import Sequence
from gptoss_cli.engine.steppers import BatchedStepper, OverlappedStepper, PlainStepper, Stepper
from gptoss_cli.errors import Hint, IntegrityError, ResourceError
from gptoss_cli.generation import AttentionMeasurement, Forced, Numerics, Observer, Sampling, TokenConstraint
from gptoss_cli.placement.model_config import ModelConfig


class Generator:
    """A TokenGenerator over a checkpoint on disk.

    With `overlapped` the device runs one step ahead of the host. It must then need nothing from the host for a token.
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
        experts: ExpertHits | None = None,
    ) -> None:
        self.model = model
        self.numerics = numerics
        self.sequence = Sequence(model, context_tokens=context_tokens, chunk_tokens=chunk_tokens)
        self._context_tokens = context_tokens
        self._chunk_tokens = chunk_tokens
        self._prefix_cache = prefix_cache
        self._experts = experts or ExpertHits([gate_up for gate_up, _ in model.weights.placed_experts()])
        self._plain_stepper = PlainStepper(model, self.sequence)
        self.stepper: Stepper = OverlappedStepper(model, self.sequence) if overlapped else self._plain_stepper
        self._stored = StoredSequence(prefix_cache, self.sequence) if prefix_cache is not None else None
        self._prefix: list[int] = []
        self._stores_prefix = False
        self._batcher: DecodeBatcher | None = None

    def several(self, count: int, *, threads: int = 1) -> list["Generator"]:
        """See BranchingGenerator.several. With more than one thread, decodes at the same time share each forward."""
        assert self.stepper is self._plain_stepper, "an overlapped stepper holds the addresses of one cache"
        batcher = DecodeBatcher(self.model) if threads > 1 else None
        generators = [self]
        for _ in range(count - 1):
            another = Generator(
                self.model,
                context_tokens=self._context_tokens,
                chunk_tokens=self._chunk_tokens,
                numerics=self.numerics,
                prefix_cache=self._prefix_cache,
                experts=self._experts,
            )
            generators.append(another)
        for generator in generators:
            generator._batcher = batcher
            if batcher is not None:
                generator.stepper = BatchedStepper(generator._plain_stepper, generator.sequence, batcher)
        return generators

    @property
    def prompt_tokens(self) -> int:
        """See BranchingGenerator.prompt_tokens."""
        return self.sequence.prompt_tokens

    def kept_tokens(self, ids: abc.Sequence[int]) -> int:
        """See BranchingGenerator.kept_tokens."""
        return self.sequence.kept_tokens(list(ids))

    def copy_prefix(self, other: "Generator", ids: abc.Sequence[int]) -> None:
        """See BranchingGenerator.copy_prefix."""
        with self._computing(), self.model.on_device(), device_errors():
            self.sequence.copy_prefix(other.sequence, list(ids))

    def _computing(self) -> AbstractContextManager[object]:
        """Return a context in which no other thread runs the model."""
        return nullcontext() if self._batcher is None else self._batcher.computing()

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

    def keep_prefix(self, ids: abc.Sequence[int], *, on_disk: bool = True) -> None:
        """Make the end of `ids` a mark, and store their KV cache `on_disk`, when a longer sequence is computed."""
        self._prefix, self._stores_prefix = list(ids), on_disk

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
        prefix_tokens = self._unread_prefix(ids)
        unread = ids[len(sequence.cached) :]
        done = 0
        if not unread:
            sequence.mark()
        yield done, len(unread)
        # A prefix to be kept ends a chunk, because the rings hold it only at that moment.
        for chunk in (*sequence.chunks(unread[:prefix_tokens]), *sequence.chunks(unread[prefix_tokens:])):
            with self._computing():
                sequence.read(chunk)
            done += len(chunk)
            if done == prefix_tokens:
                sequence.mark()
                if self._stored is not None and self._stores_prefix:
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
        observer: Observer | None = None,
        top: int = 5,
    ) -> Iterator[int]:
        """See TokenGenerator.decode.

        With an observer no step is overlapped, one operation runs after the other, and forced ids are read one by one.
        """
        # Apple's GPUs have no float64, which a draw needs: there the logits are copied to the CPU.
        device = str(self.model.device) if self.model.device.type == "cuda" else "cpu"
        size = self.config.vocabulary_size
        sampler = Sampler(sampling, banned_ids=banned_ids, vocabulary_size=size, device=device)
        free_tokens = self._context_tokens - len(self.sequence)
        max_tokens = free_tokens if max_tokens is None else min(free_tokens, max_tokens)
        if observer is None:
            ids = self._decode(sampler, constraint, frozenset(stop_ids), max_tokens)
            return ids if self._batcher is None else self._batcher.counted(ids)
        observed = self._observed(sampler, constraint, observer, top)
        return self._until_stop(observed, frozenset(stop_ids), max_tokens)

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

    def _observed(
        self, sampler: Sampler, constraint: TokenConstraint | None, observer: Observer, top: int
    ) -> Iterator[int]:
        """Yield the next ids without end; the consumer appends each to the pending ids."""
        self.stepper.settle()
        while True:
            rule = constraint.next() if constraint is not None else None
            forced = rule.ids if isinstance(rule, Forced) else (None,)
            for id_ in forced:
                routing: Routing = []
                with self._computing():
                    logits = self._plain_stepper.next_logits(routing)
                drawn = sampler.draw(logits, None if isinstance(rule, Forced) else rule) if id_ is None else id_
                info = token_info(
                    drawn,
                    logits,
                    routing,
                    experts=self.config.experts,
                    top=top,
                    forced=id_ is not None,
                    restricted=id_ is None and rule is not None,
                )
                observer(info)
                yield drawn

    def _until_stop(self, ids: Iterator[int], stop_ids: frozenset[int], max_tokens: int) -> Iterator[int]:
        for _ in range(max_tokens):
            id_ = next(ids)
            self.sequence.pending.append(id_)
            yield id_
            if id_ in stop_ids:
                return

    def logits(self, ids: abc.Sequence[int]) -> Tensor:
        """Return logits [T, V] float32 after each of `ids` [T], read from position 0. The sequence is not changed."""
        ids = list(ids)
        self._check_ids(ids, free_tokens=0)
        # A whole window at least, for which the kernels of a GPU were compiled.
        cache = self.model.new_cache(max(self.sequence.cache.window, len(ids)))
        with self._computing():
            hidden = (self.model.forward(chunk, cache) for chunk in self.sequence.chunks(ids))
            return torch.cat([self.model.unembed(part) for part in hidden])

    def measure_attention(self, ids: abc.Sequence[int]) -> Iterator[AttentionMeasurement]:
        """Measure the attention of each layer over `ids`, read from position 0. The sequence is not changed."""
        self._check_ids(list(ids), free_tokens=0)
        with self.model.on_device():
            yield from measure_attention(self.model, list(ids))

    def _unread_prefix(self, ids: list[int]) -> int:
        """Return how many of the ids that are read next end the prefix, which is kept then; 0 if none do."""
        cached, length = len(self.sequence.cached), len(self._prefix)
        if not cached < length < len(ids) or ids[:length] != self._prefix:
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
