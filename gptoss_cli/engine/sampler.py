"""Sampling: drawing a token id from logits. Nothing else in the engine is random."""

import math
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from gptoss_cli.errors import Hint, NumericalError, UsageError
from gptoss_cli.generation import VOCABULARY_SIZE, Allowed, Banned, Restriction, Sampling

_HOST: Final = "cpu"
_TOP_CANDIDATES = 1_024
_SMALLEST_PLAIN = 1e-6


class Sampler:
    """Draws ids by one `Sampling`, never one of `banned_ids` or one after the vocabulary.

    Its random numbers start with the seed.
    """

    def __init__(
        self, sampling: Sampling, *, banned_ids: Collection[int], vocabulary_size: int, device: str = "cpu"
    ) -> None:
        """Draw on `device`, which is the CPU or a CUDA device. Raises UsageError for settings out of range."""
        _check_settings(sampling)
        self._device = device
        self._sampling = sampling
        self._random = torch.Generator().manual_seed(sampling.seed % 2**63)
        self.uniform = self._next_uniform()  # in [0, 1); the next draw will consume it
        self._rows = vocabulary_size
        self._banned = self._indices({*banned_ids, *range(VOCABULARY_SIZE, vocabulary_size)})
        self._masks: dict[Restriction, Tensor] = {}
        self._host = _HostBuffers() if device == _HOST else None
        # Samplers with equal keys do the same in `draw_on_device`, so they can share a CUDA graph.
        self.graph_key = (replace(sampling, seed=0), frozenset(banned_ids))
        assert len(self._banned) < vocabulary_size, "some token must be left to draw"

    def draw(self, logits: Tensor, restriction: Restriction | None = None) -> int:
        """Draw one id from logits [V] float32. Raises NumericalError if any of them is NaN or infinite.

        Top-k and top-p count only the ids that `restriction` leaves.
        """
        logits, uniform = logits.to(self._device), self.take_uniform()
        if isinstance(restriction, Allowed):
            allowed = self._mask_of(restriction)
            id_ = _minus_one_if_not_finite(logits, allowed[self._choose(logits[allowed], uniform, self._host)])
        else:
            banned = self._banned if restriction is None else self._mask_of(restriction)
            id_ = self._draw_without(banned, logits, uniform, self._host)
        return checked_id(int(id_))

    def draw_on_device(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Draw from logits [V] as an unrestricted `draw` with the random number `uniform` [1] would -> id [1] int64.

        The id is negative where `draw` would raise; see `checked_id`. Does not wait for the host.
        """
        return self._draw_without(self._banned, logits, uniform, None)

    @property
    def plain_temperature(self) -> float | None:
        """The temperature if it is all that decides about an unrestricted draw: no top-k, no top-p. Otherwise None."""
        sampling = self._sampling
        cuts = sampling.top_p < 1 or (sampling.top_k is not None and sampling.top_k < self._rows)
        # A tiny temperature could be 0 where numbers that small are.
        plain = sampling.temperature == 0 or sampling.temperature >= _SMALLEST_PLAIN
        return float(sampling.temperature) if plain and not cuts else None

    def excluded(self) -> Tensor:
        """Return a new [V] u8 on the device, 1 at ids that an unrestricted draw must not return."""
        return torch.zeros(self._rows, dtype=torch.uint8, device=self._device).index_fill_(0, self._banned, 1)

    def take_uniform(self) -> float:
        """Consume and return `uniform`."""
        taken, self.uniform = self.uniform, self._next_uniform()
        return taken

    def _next_uniform(self) -> float:
        return float(torch.rand((), generator=self._random, dtype=torch.float64))

    def _draw_without(
        self, banned: Tensor, logits: Tensor, uniform: float | Tensor, host: "_HostBuffers | None"
    ) -> Tensor:
        if host is None:
            left = logits.index_fill(0, banned, -torch.inf)
            return _minus_one_if_not_finite(logits, self._choose(left, uniform, None))
        left = host.copied(logits, torch.float32).index_fill_(0, banned, -torch.inf)
        lowest, largest = logits.aminmax()  # NaN if any is; in a third of the time of a sum in float64
        chosen = self._choose(left, uniform, host)
        return chosen if lowest > -torch.inf and largest < torch.inf else torch.full_like(chosen, -1)

    def _choose(self, logits: Tensor, uniform: float | Tensor, host: "_HostBuffers | None") -> Tensor:
        """Return an index [1] into logits [N]. On the `host` time counts, elsewhere the number of operations."""
        if self._sampling.temperature == 0:
            # numpy takes less than half of torch's time.
            return logits.argmax(0, keepdim=True) if host is None else torch.tensor([logits.numpy().argmax()])
        if self._sampling.temperature != 1:
            # Subtract the largest first, as softmax does: divided by a tiny temperature, it would be infinite.
            logits = (logits - logits.max()) / self._sampling.temperature
        ids: Tensor | None = None
        if self._sampling.top_k is not None and self._sampling.top_k < len(logits):
            logits, ids = logits.topk(self._sampling.top_k)
        probs = logits.softmax(0)
        if self._sampling.top_p < 1:
            probs, order = _largest(probs, self._sampling.top_p)
            ids = order if ids is None else ids.index_select(0, order)
        if host is None:
            cumulative = probs.cumsum(0, dtype=torch.float64)
        else:
            cumulative = host.copied(probs, torch.float64).cumsum_(0)
        chosen = _draw_index(cumulative, uniform, self._sampling.top_p)
        return chosen if ids is None else ids.index_select(0, chosen)

    def _mask_of(self, restriction: Restriction) -> Tensor:
        """Return the ids that Allowed leaves, or those that Banned excludes. Built once for each instance."""
        mask = self._masks.get(restriction)
        if mask is None:
            if isinstance(restriction, Banned):
                mask = torch.cat([self._banned, self._indices(restriction.ids)])
            else:
                mask = self._indices(id_ for id_ in restriction.ids if id_ < VOCABULARY_SIZE)
            assert len(mask), "some token must be left to draw"
            self._masks[restriction] = mask
        return mask

    def _indices(self, ids: Iterable[int]) -> Tensor:
        known = sorted(id_ for id_ in set(ids) if 0 <= id_ < self._rows)
        return torch.tensor(known, dtype=torch.int64, device=self._device)


class _HostBuffers:
    """Memory on the CPU that every draw uses again.

    New memory for each token would go back to the system each time: its page faults took longer than the draw.
    """

    def __init__(self) -> None:
        self._buffers: dict[torch.dtype, Tensor] = {}

    def copied(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a copy of `values` [N], which the next one of this dtype overwrites."""
        buffer = self._buffers.get(dtype)
        if buffer is None or len(buffer) < len(values):
            buffer = self._buffers[dtype] = torch.empty(len(values), dtype=dtype)
        return buffer[: len(values)].copy_(values)


def checked_id(id_: int) -> int:
    """Return an id that was drawn. Raises NumericalError if it is negative: the logits were not finite."""
    if id_ < 0:
        raise NumericalError("The model's output is NaN or infinite", Hint.VERIFY)
    return id_


def _check_settings(sampling: Sampling) -> None:
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        raise UsageError(f"The temperature must be 0 or a positive number, not {sampling.temperature}")
    if not 0 < sampling.top_p <= 1:
        raise UsageError(f"top-p must be above 0 and at most 1, not {sampling.top_p}")
    if sampling.top_k is not None and sampling.top_k < 1:
        raise UsageError(f"top-k must be at least 1, not {sampling.top_k}")


def _minus_one_if_not_finite(logits: Tensor, chosen: Tensor) -> Tensor:
    # One pass: a sum in float64 is finite if and only if every float32 summand is. `isfinite` would be four kernels.
    total = logits.sum(dtype=torch.float64)
    return chosen.where(total - total == 0, -1)


def _largest(probs: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Return the largest probabilities, enough to add up to `top_p`, in descending order, and their indices."""
    # On a CPU, sorting the whole vocabulary takes longer than a token of a small model, and a thousand candidates are
    # nearly always enough. On a GPU, finding out would make the host wait.
    if not probs.is_cuda:
        largest, order = probs.topk(min(_TOP_CANDIDATES, len(probs)))
        if largest.sum() >= top_p:
            return largest, order
    return probs.sort(descending=True)


def _draw_index(cumulative: Tensor, uniform: float | Tensor, top_p: float) -> Tensor:
    """Return an index [1] in proportion to probabilities, of which only the first that add up to `top_p` count.

    `cumulative` [N] float64 are their sums.
    """
    total = cumulative.narrow(0, -1, 1)
    if top_p < 1:
        last = (cumulative < top_p).sum(0, keepdim=True).clamp(max=len(cumulative) - 1)
        total = cumulative.index_select(0, last)
    return torch.searchsorted(cumulative, uniform * total, right=True).clamp(max=len(cumulative) - 1)
