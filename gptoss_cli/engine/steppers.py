"""Draws tokens on the device and reads each there at once, while the host has yet to see the one before."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_cli.engine.cuda_graph import CudaGraph
from gptoss_cli.engine.kv_cache import KVCache
from gptoss_cli.engine.model import CHECKED_CONTEXT, Transformer
from gptoss_cli.engine.sampler import Sampler
from gptoss_cli.generation import Sampling

_FLIGHTS = 2  # the one that is waited for, and the one after it


@dataclass(frozen=True, slots=True)
class InFlightStep:
    """A token that is being read: its hidden state [1, C], and the logits [V] after it, both on the device.

    The logits are good until the next launch. `sampler` drew the next token from them.
    """

    hidden: Tensor
    logits: Tensor
    sampler: Sampler
    _told: Tensor
    _done: "torch.cuda.Event | None"

    def wait(self) -> int:
        """The id that was drawn after it, negative if the logits are not numbers."""
        if self._done is not None:
            self._done.synchronize()
        return int(self._told)


class OverlappedStepper:
    """Reads one token after the other of the sequence in a cache, and draws by the settings of one sampler.

    On a GPU all of it, the draw included, is one recording; the token that was drawn never leaves the device on its
    way to being read.
    """

    def __init__(self, model: Transformer, cache: KVCache, sampler: Sampler) -> None:
        self._model, self._cache, self._choose, self._kind = model, cache, sampler.choose, sampler.kind
        self._drawn = torch.zeros(1, dtype=torch.int64, device=model.device)
        on_gpu = model.device.type == "cuda"
        self._told = [torch.zeros(1, dtype=torch.int64, pin_memory=on_gpu) for _ in range(_FLIGHTS)]
        self._events = [torch.cuda.Event() if on_gpu else None for _ in range(_FLIGHTS)]  # type: ignore[no-untyped-call]
        self._launches = 0
        self._recording: CudaGraph[tuple[Tensor, Tensor, Tensor]] | None = None

    def serves(self, cache: KVCache, sampler: Sampler) -> bool:
        """Whether what was recorded is what another cache or sampler needs."""
        return cache is self._cache and sampler.kind == self._kind

    def launch(self, id_: int | None, sampler: Sampler) -> InFlightStep:
        """Begin to read `id_`, or else what the launch before drew, at the end of the cache; and draw what follows.

        Returns at once. The cache counts the token.
        """
        turn = self._launches % _FLIGHTS
        told, done = self._told[turn], self._events[turn]
        with self._model.on_device:
            token = self._drawn if id_ is None else torch.full_like(self._drawn, id_)
            inputs = token, torch.full((1,), sampler.uniform, dtype=torch.float64, device=token.device)
            self._cache.position.fill_(self._cache.length)
            if self._model.records and self._recording is None:
                self._recording = CudaGraph(self._compute, inputs)
            hidden, logits, self._drawn = self._recording.replay(inputs) if self._recording else self._compute(*inputs)
            told.copy_(self._drawn, non_blocking=True)
            if done is not None:
                done.record()
            hidden = hidden.clone()
        self._cache.advance(1)
        self._launches += 1
        return InFlightStep(hidden, logits, sampler, told, done)

    def _compute(self, token: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # What was drawn from no numbers is no id; something must be read until the host finds out.
        hidden = self._model.read_on_device(token.clamp(min=0), self._cache)
        logits = self._model.unembed(hidden)[0]
        return hidden, logits, self._choose(logits, uniform)


def check_overlapped(model: Transformer) -> None:
    """Compare the logits of overlapped steps with those of single reads. Raises as Transformer.check_kernels does."""
    size, device = model.config.vocabulary_size, str(model.device)
    sampler = Sampler(Sampling(seed=0, temperature=0), banned_ids=(), vocabulary_size=size, device=device)
    # One of each for all tokens: for another cache everything is recorded anew.
    cache, ahead = model.new_cache(CHECKED_CONTEXT), OverlappedStepper(model, model.new_cache(CHECKED_CONTEXT), sampler)
    model.compare(
        lambda id_: model.unembed(model.read([id_], cache))[0],
        lambda id_: ahead.launch(id_, sampler).logits.clone(),
    )
