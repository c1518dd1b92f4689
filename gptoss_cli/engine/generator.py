"""Continues sequences of token ids with a model, and reads nothing twice. Knows no text."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from gptoss_cli import __version__, settings
from gptoss_cli.checkpoint.folder import weights_folder
from gptoss_cli.engine.ahead import Ahead, Flight
from gptoss_cli.engine.cache import CacheMark
from gptoss_cli.engine.config import ModelConfig, load_config
from gptoss_cli.engine.experts import Promotion
from gptoss_cli.engine.interface import Allowed, Barred, Forced, Numerics, Sampling, Steering
from gptoss_cli.engine.model import Model
from gptoss_cli.engine.opening import open_model
from gptoss_cli.engine.prefix import PrefixStore
from gptoss_cli.engine.residence import MAPPED, Residence
from gptoss_cli.engine.sampler import Sampler, checked
from gptoss_cli.engine.weights import is_out_of_memory
from gptoss_cli.errors import IntegrityError, ResourceError, UsageError, first_line
from gptoss_cli.settings import Activations, Dense, Dtype

_MAX_MARKS = 8
_CPU_CHUNK_TOKENS, _GPU_CHUNK_TOKENS = 512, 2048
_TOKENS_BETWEEN_PROMOTIONS, _MOST_PROMOTED = 16, 4


@dataclass(frozen=True, slots=True)
class _Mark:
    """A length to come back to, and the hidden state [1, C] of the last token before it."""

    cache: CacheMark
    hidden: Tensor


class Generator:
    """A TokenGenerator over a checkpoint on disk.

    The sequence is the ids in the cache followed by the pending ones, which have been yielded but not yet run.
    """

    def __init__(
        self,
        model: Model,
        *,
        context_tokens: int,
        chunk_tokens: int,
        numerics: Numerics | None = None,
        prefixes: PrefixStore | None = None,
    ) -> None:
        assert context_tokens >= 2
        assert chunk_tokens >= 1
        self.numerics = numerics
        self._model = model
        self._prefixes = prefixes
        self._prefix: list[int] = []
        self._context_tokens = context_tokens
        self._chunk_tokens = chunk_tokens
        self._cache = model.new_cache(context_tokens)
        self._promotion = Promotion(model.placed_experts())
        self._ahead: Ahead | None = None
        self._flight: Flight | None = None  # the reading of pending[0], if it has begun
        self._cached: list[int] = []
        self._pending: list[int] = []
        self._hidden: Tensor | None = None  # [1, C], of the last cached token
        self._marks: list[_Mark] = []

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        dtype: Dtype = Dtype.BFLOAT16,
        residence: Residence = MAPPED,
        context_tokens: int | None = None,
        chunk_tokens: int | None = None,
        dense: Dense = Dense.BF16,
        activations: Activations = Activations.INT16,
        threads: int | None = None,
        say: Callable[[str], None] | None = None,
    ) -> "Generator":
        """Map the checkpoint in `folder`, or in its `original` folder, or copy it to where `residence` wants it.

        `context_tokens` None is the model's own length. `dense` INT8 converts the dense weights first, where that was
        not done before; it is for the CPU. `threads` None is one for each physical core that this process may use.
        `say` is told what takes long.

        Raises NotInstalledError, IntegrityError or ResourceError for what is wrong with the files or the device, and
        UsageError for a context the model does not have.
        """
        home = weights_folder(folder)
        config = load_config(home / "config.json")
        if context_tokens is not None and not 2 <= context_tokens <= config.max_context_tokens:
            raise UsageError(f"The context should be 2 to {config.max_context_tokens} tokens, not {context_tokens}")
        opened = open_model(
            home,
            config,
            residence=residence,
            dtype=dtype,
            dense=dense,
            activations=activations,
            threads=threads,
            say=say,
        )
        on_cpu, numerics = residence.device == "cpu", opened.numerics
        return cls(
            opened.model,
            context_tokens=context_tokens or config.max_context_tokens,
            chunk_tokens=chunk_tokens or (_CPU_CHUNK_TOKENS if on_cpu else _GPU_CHUNK_TOKENS),
            numerics=numerics,
            # A GPU reads the first messages faster than a disk gives what it made of them.
            prefixes=PrefixStore(
                settings.cache_folder() / "prefixes", f"{__version__} {opened.identity} {dtype} {numerics.summary}"
            )
            if on_cpu
            else None,
        )

    @property
    def config(self) -> ModelConfig:
        return self._model.config

    @property
    def model(self) -> Model:
        return self._model

    @property
    def context_tokens(self) -> int:
        """The most tokens a sequence may have."""
        return self._context_tokens

    @property
    def expert_hit_rate(self) -> float | None:
        """See TokenGenerator.expert_hit_rate."""
        return self._promotion.hit_rate

    def keep_prefix(self, ids: Sequence[int]) -> None:
        """From now on take what the cache holds after `ids` from disk, and put it there once they were read.

        Only for a sequence that begins with them, and goes on, while nothing else is cached.
        """
        self._prefix = list(ids)

    def prefill(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """See TokenGenerator.prefill. Raises IntegrityError if the checkpoint has no row for an id."""
        ids = list(ids)
        self._refuse(ids, room_tokens=1)
        return self._prefill(ids)

    def decode(
        self,
        sampling: Sampling,
        *,
        stop_ids: Collection[int],
        banned_ids: Collection[int],
        max_tokens: int | None,
        steering: Steering | None = None,
    ) -> Iterator[int]:
        """See TokenGenerator.decode."""
        vocabulary_size = self.config.vocabulary_size
        device = str(self._model.device) if self._model.device.type == "cuda" else "cpu"
        sampler = Sampler(sampling, banned_ids=banned_ids, vocabulary_size=vocabulary_size, device=device)
        room = self._context_tokens - len(self._cached) - len(self._pending)
        most = room if max_tokens is None else min(room, max_tokens)
        return self._decode(self._new_ids(sampler, steering), frozenset(stop_ids), most)

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits [T, V] float32 after each of `ids` [T], from position 0. The generator's own sequence is untouched."""
        ids = list(ids)
        self._refuse(ids, room_tokens=0)
        cache = self._model.new_cache(max(2, len(ids)))
        return torch.cat([self._model.unembed(self._model.read(chunk, cache)) for chunk in self._chunks(ids)])

    def _prefill(self, ids: list[int]) -> Iterator[tuple[int, int]]:
        self._land()
        self._rewind_to_prefix_of(ids)
        missing = self._take_prefix(ids)
        unread = ids[len(self._cached) :]
        if not unread:
            self._mark()
        done = 0
        yield done, len(unread)
        for chunk in (*self._chunks(unread[:missing]), *self._chunks(unread[missing:])):
            self._read(chunk)
            done += len(chunk)
            if done == missing:
                self._save_prefix()
            if done == len(unread):
                self._mark()
            yield done, len(unread)

    def _take_prefix(self, ids: list[int]) -> int:
        """Fill the empty cache with the kept prefix, if `ids` begin with it -> how much of it must be read instead."""
        length = len(self._prefix)
        if self._prefixes is None or self._cached or not 0 < length < len(ids) or ids[:length] != self._prefix:
            return 0
        hidden = self._prefixes.load(self._prefix, self._cache)
        if hidden is None:
            return length
        self._hidden = hidden.to(self._model.device)
        self._cached = list(self._prefix)
        self._mark()
        return 0

    def _save_prefix(self) -> None:
        if self._prefixes is not None and self._hidden is not None:
            self._prefixes.save(self._prefix, self._cache, self._hidden)

    def _new_ids(self, sampler: Sampler, steering: Steering | None) -> Iterator[int]:
        """What comes next, forced or drawn, for ever; whoever asks makes each id pending before the next."""
        while True:
            wish = steering.next() if steering else None
            if isinstance(wish, Forced):
                yield from wish.ids
            else:
                ahead = self._model.runs_ahead
                yield self._draw_ahead(sampler, wish) if ahead else sampler.draw(self._next_logits(), wish)

    def _draw_ahead(self, sampler: Sampler, wish: Allowed | Barred | None) -> int:
        """Draw as elsewhere, with the new id being read by the time it is returned."""
        flight = self._land()
        if flight is None or self._pending:
            logits = self._next_logits()
        elif wish is None and flight.sampler is sampler:
            # What it drew is what would be drawn now, so the next can begin before it is known.
            sampler.take()
            self._launch(None, sampler)
            with _device_failures():
                return checked(flight.wait())
        else:
            logits = flight.logits
        id_ = sampler.draw(logits, wish)
        self._launch(id_, sampler)
        return id_

    def _launch(self, id_: int | None, sampler: Sampler) -> None:
        """Begin to read `id_`, or what is being drawn: the one that is pending as soon as it is yielded."""
        if self._ahead is None or not self._ahead.serves(self._cache, sampler):
            self._ahead = None  # the memory of its recording is free for the next
            self._ahead = Ahead(self._model, self._cache, sampler)
        with _device_failures():
            self._flight = self._ahead.launch(id_, sampler)

    def _land(self) -> Flight | None:
        """Take what is being read for read, and return it; forget it if nobody has come to see its id."""
        flight, self._flight = self._flight, None
        if flight is not None and self._pending and self._cache.length == len(self._cached) + 1:
            self._cached.append(self._pending.pop(0))
            self._hidden = flight.hidden
            return flight
        if self._cache.length > len(self._cached):
            self._cache.truncate(len(self._cached))
        return None

    def _decode(self, new_ids: Iterator[int], stop_ids: frozenset[int], most: int) -> Iterator[int]:
        for id_ in islice(new_ids, most):
            # Pending before it is yielded: whoever closes the iterator now has seen it.
            self._pending.append(id_)
            yield id_
            if id_ in stop_ids:
                return

    def _next_logits(self) -> Tensor:
        """Logits [V] after the last token of the sequence, running what is pending."""
        for chunk in self._chunks(list(self._pending)):
            self._read(chunk)
            del self._pending[: len(chunk)]
            if len(self._cached) % _TOKENS_BETWEEN_PROMOTIONS == 0:
                self._promotion.promote(_MOST_PROMOTED)
        assert self._hidden is not None, "prefill comes before decode"
        return self._model.unembed(self._hidden)[0]

    def _read(self, chunk: list[int]) -> None:
        """Run `chunk` at the end of the cache. If that fails, go back to a state that is sound."""
        try:
            with _device_failures():
                self._hidden = self._model.read(chunk, self._cache)[-1:].clone()
            self._cached += chunk
        except BaseException as exc:
            # Nothing can be brought back from a device that has failed.
            if not isinstance(exc.__cause__, torch.AcceleratorError):
                self._recover()
            raise

    def _recover(self) -> None:
        """Restore the last mark, for a failure in mid-chunk spoils the rings; what followed it becomes pending."""
        sequence = self._cached + self._pending
        self._rewind(self._marks[-1] if self._marks else None)
        self._pending = sequence[len(self._cached) :]

    def _rewind_to_prefix_of(self, ids: list[int]) -> None:
        """Make the cache the longest prefix of `ids` that it can exactly go back to."""
        self._pending = []
        common = _common_prefix(self._cached, ids)
        if common == len(self._cached) and (common < len(ids) or self._hidden is not None):
            return
        # The last id must be read again for its hidden state, unless a mark kept it.
        truncated = min(common, len(ids) - 1)
        if truncated < self._cache.shortest_truncation():
            truncated = 0
        marks = [mark for mark in self._marks if truncated <= mark.cache.length <= common]
        if marks and marks[-1].cache.length > 0:
            self._rewind(marks[-1])
        else:
            self._truncate(truncated)

    def _rewind(self, mark: _Mark | None) -> None:
        if mark is None:
            self._truncate(0)
            return
        self._cache.rewind(mark.cache)
        self._hidden = mark.hidden
        self._forget()

    def _truncate(self, length: int) -> None:
        self._cache.truncate(length)
        self._hidden = None
        self._forget()

    def _forget(self) -> None:
        """Drop the ids and marks beyond what is cached."""
        del self._cached[self._cache.length :]
        self._marks = [mark for mark in self._marks if mark.cache.length <= self._cache.length]

    def _mark(self) -> None:
        assert self._hidden is not None
        if self._marks and self._marks[-1].cache.length == self._cache.length:
            return
        self._marks = [*self._marks[1 - _MAX_MARKS :], _Mark(self._cache.mark(), self._hidden)]

    def _chunks(self, ids: list[int]) -> Iterator[list[int]]:
        for start in range(0, len(ids), self._chunk_tokens):
            yield ids[start : start + self._chunk_tokens]

    def _refuse(self, ids: list[int], *, room_tokens: int) -> None:
        """Raise for ids that cannot be run, or leave less room than is wanted."""
        assert ids, "a sequence has at least one token"
        needed = len(ids) + room_tokens
        if needed > self._context_tokens:
            raise ResourceError(
                f"The conversation needs at least {needed} tokens, and the context holds {self._context_tokens}. "
                "Shorten it, or use a larger --context"
            )
        unknown = [id_ for id_ in ids if not 0 <= id_ < self.config.vocabulary_size]
        if unknown:
            raise IntegrityError(
                f"The checkpoint has no row for token {unknown[0]}: its vocabulary has {self.config.vocabulary_size}. "
                "Use a checkpoint with the gpt-oss vocabulary"
            )


@contextmanager
def _device_failures() -> Iterator[None]:
    """What a device says of itself when it fails, as ResourceErrors."""
    try:
        yield
    except torch.AcceleratorError as exc:
        raise ResourceError(f"The GPU failed: {first_line(exc)}. Start again, or use --device cpu") from exc
    except RuntimeError as exc:
        if not is_out_of_memory(exc):
            raise
        ways_out = "Use a smaller --context, --execution offload, or --device cpu"
        raise ResourceError(f"The device is out of memory. {ways_out}") from exc


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))
