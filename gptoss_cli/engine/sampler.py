"""Draws a token id from logits. The only place of the engine where chance enters."""

import math
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from gptoss_cli.errors import NumericalError, UsageError
from gptoss_cli.generation import Allowed, Banned, Sampling

_TOP_CANDIDATES = 1_024


class Sampler:
    """Draws by one `Sampling`, never one of `banned_ids`; its random numbers begin anew with its seed."""

    def __init__(
        self, sampling: Sampling, *, banned_ids: Collection[int], vocabulary_size: int, device: str = "cpu"
    ) -> None:
        """Work on `device`, the CPU or a CUDA one. Raises UsageError if a setting cannot be meant."""
        _refuse_nonsense(sampling)
        self._device = device
        self._sampling = sampling
        self._random = torch.Generator().manual_seed(sampling.seed % 2**63)
        self.uniform = self._next_uniform()  # what the next draw depends on, in [0, 1)
        self._vocabulary_size = vocabulary_size
        self._banned = self._indices(banned_ids)
        self._restricted: dict[Allowed | Banned, Tensor] = {}
        self.kind = (replace(sampling, seed=0), frozenset(banned_ids))  # of two samplers alike `choose` is the same
        assert len(self._banned) < vocabulary_size, "some token must be left to draw"

    def draw(self, logits: Tensor, restriction: Allowed | Banned | None = None) -> int:
        """One id from logits [V] float32. Raises NumericalError if any of them is NaN or infinite.

        Top-k and top-p count only what `restriction` leaves.
        """
        logits, uniform = logits.to(self._device), self.take()
        if isinstance(restriction, Allowed):
            allowed = self._tensor_of(restriction)
            chosen = _unless_no_numbers(logits, allowed[self._choose(logits[allowed], uniform)])
        else:
            banned = self._banned if restriction is None else self._tensor_of(restriction)
            chosen = self._choose_beside(logits, banned, uniform)
        return checked(int(chosen))

    def choose(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """What an unrestricted `draw` would give for logits [V] if `uniform` [1] were the sampler's -> [1] int64.

        Negative where it would raise: see `checked`. Asks nothing of the host.
        """
        return self._choose_beside(logits, self._banned, uniform)

    def take(self) -> float:
        """`uniform`, which from now on is that of the draw after."""
        taken, self.uniform = self.uniform, self._next_uniform()
        return taken

    def _next_uniform(self) -> float:
        return float(torch.rand((), generator=self._random, dtype=torch.float64))

    def _choose_beside(self, logits: Tensor, banned: Tensor, uniform: float | Tensor) -> Tensor:
        return _unless_no_numbers(logits, self._choose(logits.index_fill(0, banned, -torch.inf), uniform))

    def _choose(self, logits: Tensor, uniform: float | Tensor) -> Tensor:
        """An index [1] into logits [N]."""
        if self._sampling.temperature == 0:
            return logits.argmax(0, keepdim=True)
        # Differences from the largest, so that a tiny temperature gives no infinity.
        logits = (logits - logits.max()) / self._sampling.temperature
        ids: Tensor | None = None
        if self._sampling.top_k is not None and self._sampling.top_k < len(logits):
            logits, ids = logits.topk(self._sampling.top_k)
        probabilities = logits.softmax(0)
        if self._sampling.top_p < 1:
            probabilities, order = _largest(probabilities, self._sampling.top_p)
            ids = order if ids is None else ids.index_select(0, order)
        chosen = _draw_index(probabilities, uniform, self._sampling.top_p)
        return chosen if ids is None else ids.index_select(0, chosen)

    def _tensor_of(self, restriction: Allowed | Banned) -> Tensor:
        """The ids that are left by Allowed, or the ones that are not by Banned; made once for each instance."""
        kept = self._restricted.get(restriction)
        if kept is None:
            kept = self._indices(restriction.ids)
            if isinstance(restriction, Banned):
                kept = torch.cat([self._banned, kept])
            assert len(kept), "some token must be left to draw"
            self._restricted[restriction] = kept
        return kept

    def _indices(self, ids: Collection[int]) -> Tensor:
        known = sorted(id_ for id_ in set(ids) if 0 <= id_ < self._vocabulary_size)
        return torch.tensor(known, dtype=torch.int64, device=self._device)


def checked(chosen: int) -> int:
    """What was drawn, if anything was. Raises NumericalError."""
    if chosen < 0:
        raise NumericalError("The model's output is not a number (NaN or infinite). Check the checkpoint's files")
    return chosen


def _refuse_nonsense(sampling: Sampling) -> None:
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        raise UsageError(f"The temperature should be 0 or a positive number, not {sampling.temperature}")
    if not 0 < sampling.top_p <= 1:
        raise UsageError(f"top-p should be above 0 and at most 1, not {sampling.top_p}")
    if sampling.top_k is not None and sampling.top_k < 1:
        raise UsageError(f"top-k should be at least 1, not {sampling.top_k}")


def _unless_no_numbers(logits: Tensor, chosen: Tensor) -> Tensor:
    """`chosen`, or -1 if any of `logits` is NaN or infinite."""
    # One pass: a sum in float64 is finite if and only if every float32 summand is.
    return chosen.where(logits.sum(dtype=torch.float64).isfinite(), -1)


def _largest(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The largest probabilities, enough to add up to `top_p`, in falling order, and their indices."""
    # On a CPU sorting a whole vocabulary takes longer than a small model's token; a thousand candidates nearly always
    # do. A GPU is not asked whether they do.
    if not probabilities.is_cuda:
        largest, order = probabilities.topk(min(_TOP_CANDIDATES, len(probabilities)))
        if largest.sum() >= top_p:
            return largest, order
    return probabilities.sort(descending=True)


def _draw_index(probabilities: Tensor, uniform: float | Tensor, top_p: float) -> Tensor:
    """An index [1] in proportion to `probabilities` [N], of which the first ones count that add up to `top_p`."""
    cumulative = probabilities.cumsum(0, dtype=torch.float64)
    total = cumulative.narrow(0, -1, 1)
    if top_p < 1:
        last = (cumulative < top_p).sum(0, keepdim=True).clamp(max=len(cumulative) - 1)
        total = cumulative.index_select(0, last)
    return torch.searchsorted(cumulative, uniform * total, right=True).clamp(max=len(cumulative) - 1)
