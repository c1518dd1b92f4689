"""The ids of a sequence, and how far they are in the KV cache.

    t0 t1 t2 t3 t4 t5 | t6           t7 | t8 ...
    cached            | pending         | to be drawn
                      | in flight |

- cached: the model has read them. Their keys and values are in the cache, and `hidden` is the state after the last.
- pending: they belong to the sequence, because `decode` has yielded them, but the model has not read them. Normally
  there is at most one: an id is read when the id after it is needed. Forced ids make more.
- in flight: with an overlapped stepper the device reads the next id while the host yields it, or even before the host
  knows it. The cache is one position longer than `cached` then. When that id has been yielded, the step is committed
  and the id becomes cached; otherwise the step is discarded, and its id is never yielded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from torch import Tensor

from gptoss_cli.engine.device_errors import device_errors, has_failed
from gptoss_cli.engine.kv_cache import CacheMark
from gptoss_cli.engine.model import Routing, Transformer
from gptoss_cli.generation import common_prefix

_MAX_MARKS = 8  # each of them holds a copy of the rings


@dataclass(frozen=True, slots=True)
class Mark:
    """A length that a sequence can be rewound to, and the hidden state [1, C] of the last token before it."""

    cache: CacheMark
    hidden: Tensor


class Sequence:
    """One sequence of token ids in the KV cache of `model`.

    Rewinding is exact: after it the cache is what it was at that length. Full attention layers can be cut anywhere,
    but a sliding window's ring has overwritten the keys that a shorter sequence needs. So the rings are copied at the
    end of each prefill. That is where the next prompt leaves the sequence, because Harmony drops the reasoning of a
    finished turn from it.
    """

    def __init__(self, model: Transformer, *, context_tokens: int, chunk_tokens: int) -> None:
        assert context_tokens >= 2
        assert chunk_tokens >= 1
        self.cache = model.new_cache(context_tokens)
        self.cached: list[int] = []
        self.pending: list[int] = []
        self.hidden: Tensor | None = None  # [1, C] after the last cached id; None right after a truncation
        self._model = model
        self._chunk_tokens = chunk_tokens
        self._marks: list[Mark] = []  # by increasing length
        self._lock = Lock()  # held while marks are dropped, and while what they protect is copied

    def __len__(self) -> int:
        return len(self.cached) + len(self.pending)

    def chunks(self, ids: list[int]) -> Iterator[list[int]]:
        """Cut `ids` into the parts that the model reads at once."""
        for start in range(0, len(ids), self._chunk_tokens):
            yield ids[start : start + self._chunk_tokens]

    def read(self, chunk: list[int], routing: Routing | None = None) -> None:
        """Run the model on `chunk` after the cached ids. If that fails, return to a valid state and raise.

        The experts of each layer are added to `routing`.
        """
        try:
            with device_errors():
                self.hidden = self._model.forward(chunk, self.cache, routing=routing)[-1:].clone()
            self.cached += chunk
        except BaseException as exc:
            # Nothing can be restored on a device that has failed.
            if not has_failed(exc.__cause__):
                self._recover()
            raise

    def read_pending_chunk(self, routing: Routing | None = None) -> None:
        """Read the first pending ids, at most a chunk of them. The experts of each layer are added to `routing`."""
        chunk = self.pending[: self._chunk_tokens]
        self.read(chunk, routing)
        del self.pending[: len(chunk)]

    def commit(self, hidden: Tensor) -> bool:
        """Make the id of a step in flight cached, with its `hidden` state -> False if it was never yielded."""
        if not self.pending or self.cache.length != len(self.cached) + 1:
            return False
        self.cached.append(self.pending.pop(0))
        self.hidden = hidden
        return True

    def discard(self) -> None:
        """Drop from the cache what a step in flight has added: rings can always go back by one position."""
        if self.cache.length > len(self.cached):
            self.cache.truncate(len(self.cached))

    def mark(self) -> None:
        """Make the cached ids a length that can be rewound to."""
        assert self.hidden is not None
        if not self._marks or self._marks[-1].cache.length < self.cache.length:
            self._marks = _thinned([*self._marks, Mark(self.cache.mark(), self.hidden)])

    def last_mark(self) -> tuple[Mark, list[int]] | None:
        """Return the last mark and the ids before it; None without a mark, or if its rings have lost a position."""
        with self._lock:
            if not self._marks or self._marks[-1].cache.reached != self._marks[-1].cache.length:
                return None
            return self._marks[-1], self.cached[: self._marks[-1].cache.length]

    @contextmanager
    def protecting(self, mark: Mark) -> Iterator[bool]:
        """Let no other thread rewind the sequence within the block; the value is False if `mark` was left already."""
        with self._lock:
            yield any(mark is other for other in self._marks)

    def snapshot(self, mark: Mark, first: int, end: int) -> list[Tensor] | None:
        """Return copies of keys and values [N, K, D] of each full layer, at positions before `mark`.

        Return None if the sequence was rewound to before the mark. May be called from any thread.
        """
        with self.protecting(mark) as is_protected:
            if not is_protected:
                return None
            return [part[first:end].clone() for layer in self.cache.full_layers for part in layer.contents(end)]

    @property
    def prompt_tokens(self) -> int:
        """The length of the last prompt that was read to its end, 0 without one."""
        return self._marks[-1].cache.length if self._marks else 0

    def kept_tokens(self, ids: list[int]) -> int:
        """Return the length of the longest prefix of `ids` that is either the whole sequence or ends at a mark.

        A prompt that continues a conversation keeps at least the prompt before it. One that has only the first words in
        common with it keeps nothing.
        """
        common = common_prefix(self.cached, ids)
        if common == len(self.cached):
            return common
        return max((mark.cache.length for mark in self._marks if mark.cache.length <= common), default=0)

    def copy_prefix(self, other: "Sequence", ids: list[int]) -> None:
        """Become the longest prefix of `ids` at which `other` has a mark, if that keeps more than this sequence does.

        The model must not read anything into `other` meanwhile.
        """
        kept, common = self.kept_tokens(ids), common_prefix(other.cached, ids)
        marks = [mark for mark in other._marks if kept < mark.cache.length == mark.cache.reached <= common]
        if not marks:
            return
        mark, length = marks[-1], marks[-1].cache.length
        self.clear()
        for own, source in zip(self.cache.full_layers, other.cache.full_layers, strict=True):
            own.slots(length)
            for target, part in zip(own.buffers(), source.contents(length), strict=True):
                target[:length] = part
        self.cache.fill(length, mark.cache.rings)
        self.restore(ids[:length], mark.hidden)

    def clear(self) -> None:
        """Make the sequence empty."""
        self.pending = []
        with self._lock:
            self._truncate(0)

    def restore(self, ids: list[int], hidden: Tensor) -> None:
        """Take over a cache that was filled from outside with `ids`, and `hidden`, the state after the last of them."""
        assert not self.cached
        assert self.cache.length == len(ids)
        self.hidden = hidden
        self.cached = list(ids)
        self.mark()

    def rewind_to_prefix_of(self, ids: list[int]) -> None:
        """Cut the sequence to the longest prefix of `ids` that it can return to; nothing is pending after that."""
        self.pending = []
        common = common_prefix(self.cached, ids)
        if common == len(self.cached) and (common < len(ids) or self.hidden is not None):
            return
        # Truncating loses the hidden state, which decode needs, so at least the last id must be read again.
        length = min(common, len(ids) - 1)
        if length < self.cache.shortest_truncation():
            length = 0
        marks = [mark for mark in self._marks if length <= mark.cache.length <= common]
        with self._lock:
            if marks:
                self._rewind(marks[-1])
            else:
                self._truncate(length)

    def _recover(self) -> None:
        """Return to the last mark, and make pending what followed it.

        A chunk that failed half way has overwritten keys in some of the rings, which a truncation cannot bring back.
        """
        ids = self.cached + self.pending
        with self._lock:
            if self._marks:
                self._rewind(self._marks[-1])
            else:
                self._truncate(0)
        self.pending = ids[len(self.cached) :]

    def _rewind(self, mark: Mark) -> None:
        self.cache.rewind(mark.cache)
        self.hidden = mark.hidden
        self._drop_uncached()

    def _truncate(self, length: int) -> None:
        self.cache.truncate(length)
        self.hidden = None
        self._drop_uncached()

    def _drop_uncached(self) -> None:
        """Drop the ids and marks that lie beyond the end of the cache."""
        del self.cached[self.cache.length :]
        self._marks = [mark for mark in self._marks if mark.cache.length <= self.cache.length]


def read_together(model: Transformer, sequences: list[Sequence]) -> Tensor:
    """Read the first pending id of each of `sequences` in one forward -> logits [T, V] after them.

    If that fails, every sequence returns to a valid state, as after `Sequence.read`.
    """
    ids = [sequence.pending[0] for sequence in sequences]
    try:
        with device_errors():
            hidden = model.forward_each(ids, [sequence.cache for sequence in sequences])
    except BaseException as exc:
        if not has_failed(exc.__cause__):
            for sequence in sequences:
                sequence._recover()
        raise
    for row, sequence in enumerate(sequences):
        sequence.hidden = hidden[row : row + 1].clone()
        sequence.cached.append(sequence.pending.pop(0))
    return model.unembed(hidden)


def _thinned(marks: list[Mark]) -> list[Mark]:
    """Return at most _MAX_MARKS of `marks`: without the one whose loss makes the fewest tokens be read again.

    That is the one closest to the mark before it. The last one stays.
    """
    if len(marks) <= _MAX_MARKS:
        return marks
    lengths = [0, *(mark.cache.length for mark in marks)]
    least = min(range(len(marks) - 1), key=lambda index: lengths[index + 1] - lengths[index])
    return [*marks[:least], *marks[least + 1 :]]
