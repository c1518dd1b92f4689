"""Keys and values of the positions a model has read, per layer: all of them, or a ring of the last window.

The cache owns its buffers. A layer's buffers are written while a chunk is read, but count only once `advance` has been
called: a chunk that fails half way leaves full layers as they were and rings spoiled, so rewind to a mark after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_cli.errors import ResourceError
from gptoss_cli.placement.model_config import LayerKind, ModelConfig

_FIRST_SLOTS = 256


@dataclass(frozen=True, slots=True)
class Visible:
    """What new queries may attend to: keys and values [S, K, D], of positions first, first + 1, ...

    For one new token of a ring the order of the positions is not kept, and `window` is None: all of them are visible.
    """

    keys: Tensor
    values: Tensor
    first: int
    window: int | None


class FullLayer:
    """Keeps every position. The buffers [slots, K, D] grow by half, up to the context; a GPU's are there at once."""

    def __init__(self, heads: int, head_dim: int, *, context_tokens: int, dtype: torch.dtype, position: Tensor) -> None:
        self.position = position
        self._context_tokens = context_tokens
        self._keys = torch.empty(0, heads, head_dim, dtype=dtype, device=position.device)
        self._values = torch.empty_like(self._keys)
        if position.is_cuda:
            self._grow(context_tokens)

    def slots(self, tokens: int) -> int:
        """How many there are, at least `tokens`."""
        if tokens > len(self._keys):
            self._grow(tokens)
        return len(self._keys)

    def buffers(self) -> tuple[Tensor, Tensor]:
        """Keys and values [slots, K, D], to be written by kernels: position p is in slot p."""
        return self._keys, self._values

    def append(self, keys: Tensor, values: Tensor, position: int) -> Visible:
        """Write keys and values [T, K, D] of positions from `position` on; return all up to the last."""
        end = position + len(keys)
        self.slots(end)
        self._keys[position:end] = keys
        self._values[position:end] = values
        return Visible(self._keys[:end], self._values[:end], 0, None)

    def contents(self, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first `length` positions, as views."""
        return self._keys[:length], self._values[:length]

    def fits(self, contents: tuple[Tensor, Tensor], length: int) -> bool:
        """Whether `contents` can be what this layer holds of `length` positions."""
        shape = (length, *self._keys.shape[1:])
        return all(part.shape == shape and part.dtype is self._keys.dtype for part in contents)

    def fill(self, contents: tuple[Tensor, Tensor]) -> None:
        """Hold `contents` from position 0 on."""
        self.append(*contents, 0)

    def _grow(self, needed: int) -> None:
        assert needed <= self._context_tokens, "the generator keeps sequences within the context"
        slots = min(self._context_tokens, max(_FIRST_SLOTS, needed, len(self._keys) * 3 // 2))
        self._keys, self._values = _enlarged(self._keys, slots), _enlarged(self._values, slots)


class SlidingLayer:
    """Keeps the last `window` positions: position p is in slot p % window of the buffers [window, K, D]."""

    def __init__(self, heads: int, head_dim: int, *, window: int, dtype: torch.dtype, position: Tensor) -> None:
        self.position = position
        self._window = window
        self._keys = torch.zeros(window, heads, head_dim, dtype=dtype, device=position.device)
        self._values = torch.zeros_like(self._keys)

    def slots(self, tokens: int) -> int:
        """How many there are: the window, whatever `tokens`."""
        return self._window

    def buffers(self) -> tuple[Tensor, Tensor]:
        """Keys and values [window, K, D], to be written by kernels."""
        return self._keys, self._values

    def append(self, keys: Tensor, values: Tensor, position: int) -> Visible:
        """Write keys and values [T, K, D] of positions from `position` on; return what any of them may see."""
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
        """The ring, as views."""
        return self._keys, self._values

    def fits(self, contents: tuple[Tensor, Tensor], length: int) -> bool:
        """Whether `contents` can be this ring."""
        return all(part.shape == self._keys.shape and part.dtype is self._keys.dtype for part in contents)

    def fill(self, contents: tuple[Tensor, Tensor]) -> None:
        """Be the ring `contents`."""
        self.restore(contents)

    def copy(self) -> tuple[Tensor, Tensor]:
        return self._keys.clone(), self._values.clone()

    def restore(self, copied: tuple[Tensor, Tensor]) -> None:
        self._keys.copy_(copied[0])
        self._values.copy_(copied[1])


LayerCache = FullLayer | SlidingLayer


@dataclass(frozen=True, slots=True)
class CacheMark:
    """A place to come back to: a length, and copies of the rings as they were then."""

    length: int
    reached: int
    rings: tuple[tuple[Tensor, Tensor], ...]


class KVCache:
    """One sequence's keys and values. `length` positions are cached; the next one is position `length`.

    `position` [1] int32, on the device and shared by the layers, is for kernels that are told it there.
    """

    def __init__(self, config: ModelConfig, *, context_tokens: int, dtype: torch.dtype, device: str) -> None:
        self._length = 0
        self._reached = 0  # the length after the last advance: truncating does not bring slots back
        self._window = min(config.sliding_window, context_tokens)
        self.position = torch.zeros(1, dtype=torch.int32, device=device)
        heads, head_dim, position = config.kv_heads, config.head_dim, self.position
        self.layers: Sequence[LayerCache] = [
            SlidingLayer(heads, head_dim, window=self._window, dtype=dtype, position=position)
            if kind is LayerKind.SLIDING
            else FullLayer(heads, head_dim, context_tokens=context_tokens, dtype=dtype, position=position)
            for kind in config.layer_kinds
        ]

    @property
    def length(self) -> int:
        return self._length

    def advance(self, tokens: int) -> None:
        """Count `tokens` positions that every layer has written."""
        self._length += tokens
        self._reached = self._length

    def mark(self) -> CacheMark:
        """Copy the rings. The mark is good for as long as the positions before it stay cached and unchanged."""
        return CacheMark(self._length, self._reached, tuple(layer.copy() for layer in self._rings()))

    def rewind(self, mark: CacheMark) -> None:
        """Forget everything after `mark`, exactly."""
        assert mark.length <= self._length, "a mark beyond the end describes another sequence"
        for layer, copied in zip(self._rings(), mark.rings, strict=True):
            layer.restore(copied)
        self._length, self._reached = mark.length, mark.reached

    def contents(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer, as views; `fill` makes another cache the same."""
        return [layer.contents(self._length) for layer in self.layers]

    def fill(self, contents: Sequence[tuple[Tensor, Tensor]], length: int) -> bool:
        """Make this empty cache what another one was with `length` positions; False if the shapes are not its own."""
        assert self._length == 0, "only an empty cache is filled"
        layers = list(zip(self.layers, contents, strict=True))
        if not all(layer.fits(part, length) for layer, part in layers):
            return False
        for layer, part in layers:
            layer.fill(part)
        self.advance(length)
        return True

    def shortest_truncation(self) -> int:
        """The smallest length, except 0, that `truncate` can go back to.

        A ring of W slots holds the W positions before the length it reached; the next query needs W - 1 of them.
        """
        return self._reached - 1 if self._rings() and self._reached > self._window else 0

    def truncate(self, length: int) -> None:
        """Forget the positions from `length` on, without a mark; `length` is 0 or at least `shortest_truncation()`."""
        assert length == 0 or self.shortest_truncation() <= length <= self._length
        self._length = length
        if length == 0:
            self._reached = 0

    def _rings(self) -> list[SlidingLayer]:
        return [layer for layer in self.layers if isinstance(layer, SlidingLayer)]


def _enlarged(buffer: Tensor, slots: int) -> Tensor:
    """A copy with `slots` slots. Raises ResourceError if there is no memory for it."""
    try:
        larger = buffer.new_empty(slots, *buffer.shape[1:])
    except (RuntimeError, MemoryError) as exc:
        raise ResourceError(f"No memory for a KV cache of {slots} tokens. Use a smaller --context") from exc
    larger[: len(buffer)] = buffer
    return larger
