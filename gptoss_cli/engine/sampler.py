"""Draws a token id from logits. The only place of the engine where chance enters."""

import math
from collections.abc import Collection

import torch
from torch import Tensor

from gptoss_cli.engine.interface import Allowed, Barred, Sampling
from gptoss_cli.errors import NumericalError, UsageError

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
        self._vocabulary_size = vocabulary_size
        self._banned = self._indices(banned_ids)
        self._restricted: dict[Allowed | Barred, Tensor] = {}
        assert len(self._banned) < vocabulary_size, "some token must be left to draw"

    def draw(self, logits: Tensor, restriction: Allowed | Barred | None = None) -> int:
        """One id from logits [V] float32. Raises NumericalError if any of them is NaN or infinite.

        Top-k and top-p count only what `restriction` leaves.
        """
        logits = logits.to(self._device)
        # One pass: a sum in float64 is finite if and only if every float32 summand is.
        if not logits.sum(dtype=torch.float64).isfinite():
            raise NumericalError("The model's output is not a number (NaN or infinite). Check the checkpoint's files")
        if isinstance(restriction, Allowed):
            allowed = self._tensor_of(restriction)
            return int(allowed[self._choose(logits[allowed])])
        banned = self._banned if restriction is None else self._tensor_of(restriction)
        return self._choose(logits.index_fill(0, banned, -torch.inf))

    def _choose(self, logits: Tensor) -> int:
        """An index into logits [N]."""
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        ids, probabilities = self._candidates(logits)
        chosen = _draw_index(probabilities, self._random)
        return chosen if ids is None else int(ids[chosen])

    def _tensor_of(self, restriction: Allowed | Barred) -> Tensor:
        """The ids that are left by Allowed, or the ones that are not by Barred; made once for each instance."""
        kept = self._restricted.get(restriction)
        if kept is None:
            kept = self._indices(restriction.ids)
            if isinstance(restriction, Barred):
                kept = torch.cat([self._banned, kept])
            assert len(kept), "some token must be left to draw"
            self._restricted[restriction] = kept
        return kept

    def _indices(self, ids: Collection[int]) -> Tensor:
        known = sorted(id_ for id_ in set(ids) if 0 <= id_ < self._vocabulary_size)
        return torch.tensor(known, dtype=torch.int64, device=self._device)

    def _candidates(self, logits: Tensor) -> tuple[Tensor | None, Tensor]:
        """The ids that may be drawn (None: all, in order) and their probabilities, which need not add up to 1."""
        # Differences from the largest, so that a tiny temperature gives no infinity.
        logits = (logits - logits.max()) / self._sampling.temperature
        ids: Tensor | None = None
        if self._sampling.top_k is not None and self._sampling.top_k < len(logits):
            logits, ids = logits.topk(self._sampling.top_k)
        probabilities = logits.softmax(0)
        if self._sampling.top_p >= 1:
            return ids, probabilities
        nucleus, order = _nucleus(probabilities, self._sampling.top_p)
        return order if ids is None else ids[order], nucleus


def _refuse_nonsense(sampling: Sampling) -> None:
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        raise UsageError(f"The temperature should be 0 or a positive number, not {sampling.temperature}")
    if not 0 < sampling.top_p <= 1:
        raise UsageError(f"top-p should be above 0 and at most 1, not {sampling.top_p}")
    if sampling.top_k is not None and sampling.top_k < 1:
        raise UsageError(f"top-k should be at least 1, not {sampling.top_k}")


def _nucleus(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The fewest largest probabilities that add up to `top_p`, and their indices."""
    # Sorting a whole vocabulary takes longer than a small model's token; a thousand candidates nearly always do.
    largest, order = probabilities.topk(min(_TOP_CANDIDATES, len(probabilities)))
    if largest.sum() < top_p:
        largest, order = probabilities.sort(descending=True)
    kept = int((largest.cumsum(0, dtype=torch.float64) < top_p).sum()) + 1
    return largest[:kept], order[:kept]


def _draw_index(probabilities: Tensor, random: torch.Generator) -> int:
    """An index in proportion to `probabilities` [N]; never one whose probability is 0."""
    cumulative = probabilities.cumsum(0, dtype=torch.float64)
    target = torch.rand((), generator=random, dtype=torch.float64) * cumulative[-1]
    return int(torch.searchsorted(cumulative, target, right=True))
