"""The KV cache of one sequence: every position in full attention layers, a ring of the last window in sliding ones.

    full layer      slot   0  1  2  3  4  5  -  -     position p is in slot p
                    holds  p0 p1 p2 p3 p4 p5
    ring, window 4  slot   0  1  2  3                 position p is in slot p % 4
                    holds  p4 p5 p2 p3

Layers write their slots while a chunk is read, but the new positions count only after `advance`. If a chunk fails half
way, full layers still hold everything that counts. Rings do not: the chunk has overwritten the oldest positions, which
the sequence before it needs. `mark` copies the rings, and `rewind` puts them back. Without a mark a ring can go back by
one position only, see `shortest_truncation`.

Letters in shapes: T new tokens, S positions to attend to, K kv heads, D head dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_cli.errors import Hint, ResourceError
from gptoss_cli.placement.model_config import LayerKind, ModelConfig

_FIRST_SLOTS = 256


@dataclass(frozen=True, slots=True)
class Visible:
    """The keys and values [S, K, D] that new queries may attend to, for the positions first, first + 1, ...

    `window` None makes all of them visible. For one new token in a ring the positions are in the order of the slots,
    which does not matter to attention: rotations are in the keys.
    """

    keys: Tensor
    values: Tensor
    first: int
    window: int | None


class FullLayer:
    """The cache of a full attention layer, which keeps every position.

    The buffers [slots, K, D] grow by half at a time, up to the context. On a GPU they have their full size from the
    start, because CUDA graphs hold their addresses.
    """

    def __init__(self, heads: int, head_dim: int, *, context_tokens: int, dtype: torch.dtype, position: Tensor) -> None:
        self.position = position
        self._context_tokens = context_tokens
        self._keys = torch.empty(0, heads, head_dim, dtype=dtype, device=position.device)
        self._values = torch.empty_like(self._keys)
        if position.is_cuda:
            self._grow(context_tokens)

    def slots(self, tokens: int) -> int:
        """Return the number of slots, after growing to at least `tokens`."""
        if tokens > len(self._keys):
            self._grow(tokens)
        return len(self._keys)

    def buffers(self) -> tuple[Tensor, Tensor]:
        """Return keys and values [slots, K, D] for kernels to write: position p belongs in slot p."""
        return self._keys, self._values

    def append(self, keys: Tensor, values: Tensor, position: int) -> Visible:
        """Write keys and values [T, K, D] from `position` on -> everything up to the last position."""
        end = position + len(keys)
        self.slots(end)
        self._keys[position:end] = keys
        self._values[position:end] = values
        return Visible(self._keys[:end], self._values[:end], 0, None)

    def contents(self, length: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of the first `length` positions, as views."""
        return self._keys[:length], self._values[:length]

    def _grow(self, needed: int) -> None:
        assert needed <= self._context_tokens, "the generator limits sequences to the context"
        slots = min(self._context_tokens, max(_FIRST_SLOTS, needed, len(self._keys) * 3 // 2))
        self._keys, self._values = _enlarged(self._keys, slots), _enlarged(self._values, slots)


class SlidingLayer:
    """The cache of a sliding window layer: a ring with position p in slot p % window of the buffers [window, K, D]."""

    def __init__(self, heads: int, head_dim: int, *, window: int, dtype: torch.dtype, position: Tensor) -> None:
        self.position = position
        self._window = window
        self._keys = torch.zeros(window, heads, head_dim, dtype=dtype, device=position.device)
        self._values = torch.zeros_like(self._keys)

    def slots(self, tokens: int) -> int:
        """Return the number of slots, which is the window for any number of tokens."""
        return self._window

    def buffers(self) -> tuple[Tensor, Tensor]:
        """Return keys and values [window, K, D] for kernels to write."""
        return self._keys, self._values

    def append(self, keys: Tensor, values: Tensor, position: int) -> Visible:
        """Write keys and values [T, K, D] from `position` on -> everything that any of these positions may see.

        The result of several tokens is a copy: the first of them sees positions that the last of them overwrites.
        """
        keys, values = keys.to(self._keys.dtype), values.to(self._values.dtype)
        if len(keys) == 1:
            return self._append_one(keys, values, position)
        known = min(position, self._window)
        slots = torch.arange(position - known, position, device=keys.device) % self._window
        visible = Visible(
            torch.cat((self._keys[slots], keys)),
            torch.cat((self._values[slots], values)),
            position - known,
            self._window,
        )
        kept = min(len(keys), self._window)
        end = position + len(keys)
        slots = torch.arange(end - kept, end, device=keys.device) % self._window
        self._keys[slots] = keys[-kept:]
        self._values[slots] = values[-kept:]
        return visible

    def _append_one(self, keys: Tensor, values: Tensor, position: int) -> Visible:
        slot = position % self._window
        self._keys[slot : slot + 1] = keys
        self._values[slot : slot + 1] = values
        known = min(position + 1, self._window)
        return Visible(self._keys[:known], self._values[:known], position + 1 - known, None)

    def contents(self, length: int) -> tuple[Tensor, Tensor]:
        """Return the buffers of the ring, as views."""
        return self._keys, self._values

    def copy(self) -> tuple[Tensor, Tensor]:
        """Return copies of the buffers, for `restore`."""
        return self._keys.clone(), self._values.clone()

    def restore(self, copied: tuple[Tensor, Tensor]) -> None:
        """Write what `copy` returned back into the buffers, which stay where they are."""
        self._keys.copy_(copied[0])
        self._values.copy_(copied[1])


LayerCache = FullLayer | SlidingLayer


@dataclass(frozen=True, slots=True)
class CacheMark:
    """A length to rewind to, with copies of the rings at that length."""

    length: int
    reached: int
    rings: tuple[tuple[Tensor, Tensor], ...]


class KVCache:
    """The keys and values of one sequence, `length` positions of them. The next token has position `length`.

    `position` [1] int32 is on the device and shared by the layers, for kernels that read the position of a token there:
    a CUDA graph cannot take it as a number.
    """

    def __init__(self, config: ModelConfig, *, context_tokens: int, dtype: torch.dtype, device: str) -> None:
        self._length = 0
        self._reached = 0  # the length after the last advance, which is what the rings hold, even after truncation
        self.window = min(config.sliding_window, context_tokens)
        self.position = torch.zeros(1, dtype=torch.int32, device=device)
        heads, head_dim, position = config.kv_heads, config.head_dim, self.position
        self.layers: Sequence[LayerCache] = [
            SlidingLayer(heads, head_dim, window=self.window, dtype=dtype, position=position)
            if kind is LayerKind.SLIDING
            else FullLayer(heads, head_dim, context_tokens=context_tokens, dtype=dtype, position=position)
            for kind in config.layer_kinds
        ]
        self.full_layers = [layer for layer in self.layers if isinstance(layer, FullLayer)]
        self.sliding_layers = [layer for layer in self.layers if isinstance(layer, SlidingLayer)]

    @property
    def length(self) -> int:
        return self._length

    def advance(self, tokens: int) -> None:
        """Count `tokens` more positions, which every layer has written."""
        self._length += tokens
        self._reached = self._length

    def mark(self) -> CacheMark:
        """Return a mark of the current length. It is valid while the positions before it stay cached."""
        return CacheMark(self._length, self._reached, tuple(layer.copy() for layer in self.sliding_layers))

    def rewind(self, mark: CacheMark) -> None:
        """Return to the exact state at `mark`."""
        assert mark.length <= self._length, "a mark beyond the end belongs to another sequence"
        for layer, copied in zip(self.sliding_layers, mark.rings, strict=True):
            layer.restore(copied)
        self._length, self._reached = mark.length, mark.reached

    def fill(self, length: int, rings: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Give this empty cache a `length`, whose positions the full layers hold already, and the `rings` at it."""
        assert self._length == 0, "only an empty cache can be filled"
        for layer, ring in zip(self.sliding_layers, rings, strict=True):
            layer.restore(ring)
        self.advance(length)

    def shortest_truncation(self) -> int:
        """Return the smallest length, except 0, that `truncate` accepts.

        A ring of W slots holds the last W positions before the length it reached. The next query needs the W - 1
        before it, so one position can be dropped, but not two: the slot of the second holds a newer position.
        """
        return self._reached - 1 if self.sliding_layers and self._reached > self.window else 0

    def truncate(self, length: int) -> None:
        """Drop the positions from `length` on, without a mark; `length` is 0 or at least `shortest_truncation()`."""
        assert length == 0 or self.shortest_truncation() <= length <= self._length
        self._length = length
        if length == 0:
            self._reached = 0


def _enlarged(buffer: Tensor, slots: int) -> Tensor:
    """Return a copy with `slots` slots. Raises ResourceError if there is no memory for it."""
    try:
        larger = buffer.new_empty(slots, *buffer.shape[1:])
    except (RuntimeError, MemoryError) as exc:
        raise ResourceError(f"There is no memory for a KV cache of {slots} tokens", Hint.SMALLER_CONTEXT) from exc
    larger[: len(buffer)] = buffer
    return larger
