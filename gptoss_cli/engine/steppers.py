"""Ways to get the next id of a sequence: step by step, and with the device one step ahead of the host.

    PlainStepper       host    | wait    | draw t6, yield t6 | wait    | draw t7, yield t7 | wait
                       device  | read t5 |                   | read t6 |                   | read t7

    OverlappedStepper  host    | launch, wait for t6 | yield t6, launch, wait for t7 | yield t7, launch, wait for t8
                       device  | read t5, draw t6    | read t6, draw t7              | read t7, draw t8

An overlapped step reads the id that the step before it drew from device memory. So the device has work while the host
turns ids into text, checks constraints and writes to the terminal. Both steppers give the same ids: a step in flight
only looks at the random number that the next draw will consume, and its draw is used only if that draw is still the one
that is wanted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gptoss_cli.engine.batching import DecodeBatcher
from gptoss_cli.engine.cuda_graph import CudaGraph
from gptoss_cli.engine.device_errors import device_errors
from gptoss_cli.engine.kernels.protocol import TokenDrawer
from gptoss_cli.engine.kv_cache import KVCache
from gptoss_cli.engine.model import Routing, Transformer
from gptoss_cli.engine.sampler import Sampler, checked_id
from gptoss_cli.engine.sequence import Sequence
from gptoss_cli.generation import Restriction

_STEPS_AT_ONCE = 2  # the step that the host waits for, and the one after it


class Stepper(Protocol):
    """Extends a sequence by one id at a time."""

    def next_id(self, sampler: Sampler, restriction: Restriction | None) -> int:
        """Return the next id, which the caller appends to the pending ids of the sequence.

        Raises NumericalError on NaN or infinite logits.
        """

    def settle(self) -> None:
        """Commit or discard the step in flight, so that the sequence can be rewound."""


class PlainStepper:
    """Reads what is pending, then draws from the logits."""

    def __init__(self, model: Transformer, sequence: Sequence) -> None:
        self._model = model
        self._sequence = sequence

    def next_id(self, sampler: Sampler, restriction: Restriction | None) -> int:
        """See Stepper.next_id."""
        return sampler.draw(self.next_logits(), restriction)

    def settle(self) -> None:
        """See Stepper.settle: nothing is ever in flight."""

    def next_logits(self, routing: Routing | None = None) -> Tensor:
        """Read what is pending -> logits [V] after the last id of the sequence.

        `routing` gets the experts of each layer for the last chunk, and stays empty if nothing was pending.
        """
        sequence = self._sequence
        while sequence.pending:
            if routing is not None:
                routing.clear()
            sequence.read_pending_chunk(routing)
        assert sequence.hidden is not None, "prefill comes before decode"
        return self._model.unembed(sequence.hidden)[0]


class BatchedStepper:
    """Reads together with the other sequences of `batcher`, then draws from the logits. See batching.py."""

    def __init__(self, plain: PlainStepper, sequence: Sequence, batcher: DecodeBatcher) -> None:
        self._plain = plain
        self._sequence = sequence
        self._batcher = batcher

    def next_id(self, sampler: Sampler, restriction: Restriction | None) -> int:
        """See Stepper.next_id."""
        logits = self._batcher.next_logits(self._sequence) if len(self._sequence.pending) == 1 else None
        if logits is None:  # after a prefill, forced ids, or a failure
            with self._batcher.computing():
                logits = self._plain.next_logits()
        return sampler.draw(logits, restriction)

    def settle(self) -> None:
        """See Stepper.settle: nothing is ever in flight."""


@dataclass(frozen=True, slots=True)
class InFlightStep:
    """A step that the device works on: it reads an id and draws the next one as `sampler` would.

    `hidden` [1, C] and `logits` [V] are on the device; the next launch overwrites the logits.
    """

    hidden: Tensor
    logits: Tensor
    sampler: Sampler
    _drawn: Tensor  # [1] int64 in host memory, valid after `_done`
    _done: torch.cuda.Event | None

    def wait(self) -> int:
        """Return the id that was drawn, negative if the logits are NaN or infinite."""
        if self._done is not None:
            self._done.synchronize()
        return int(self._drawn)


class OverlappedStepper:
    """Keeps a step in flight: when an id is returned, the device is reading it and drawing the one after it."""

    def __init__(self, model: Transformer, sequence: Sequence) -> None:
        self._model = model
        self._sequence = sequence
        self._plain = PlainStepper(model, sequence)
        self._launcher: StepLauncher | None = None
        self._in_flight: InFlightStep | None = None

    def next_id(self, sampler: Sampler, restriction: Restriction | None) -> int:
        """See Stepper.next_id."""
        step = self._commit_or_discard()
        if step is None or self._sequence.pending:
            # After a prefill, or after forced ids: the logits that are needed follow ids that are not in flight.
            logits = self._plain.next_logits()
        elif restriction is None and step.sampler is sampler:
            # The id that the step draws is the one that would be drawn now. Launch the step that reads it first and
            # wait for it second: the device then never waits for the host.
            sampler.take_uniform()
            self._launch(None, sampler)
            with device_errors():
                return checked_id(step.wait())
        else:
            # A restriction, or the settings of another decode: draw again, from the same logits.
            logits = step.logits
        id_ = sampler.draw(logits, restriction)
        self._launch(id_, sampler)
        return id_

    def settle(self) -> None:
        """See Stepper.settle."""
        self._commit_or_discard()

    def _commit_or_discard(self) -> InFlightStep | None:
        """Commit the step in flight if its id was yielded and return it; otherwise discard it and return None.

        An id was not yielded if its draw failed, or if an exception came while the host waited for it.
        """
        step, self._in_flight = self._in_flight, None
        if step is not None and self._sequence.commit(step.hidden):
            return step
        self._sequence.discard()
        return None

    def _launch(self, id_: int | None, sampler: Sampler) -> None:
        if self._launcher is None or not self._launcher.serves(sampler):
            self._launcher = None  # first, so that the next graph can use the memory of this one's
            self._launcher = StepLauncher(self._model, self._sequence.cache, sampler)
        with device_errors():
            self._in_flight = self._launcher.launch(id_, sampler)


def _draw_of(sampler: Sampler, model: Transformer) -> Callable[[Tensor, Tensor], Tensor]:
    """Return `sampler.draw_on_device`, or kernels that do the same, if the model's kernels have them."""
    temperature = sampler.plain_temperature
    if temperature is None or not isinstance(model.kernels, TokenDrawer):
        return sampler.draw_on_device
    excluded, draw = sampler.excluded(), model.kernels.draw
    return lambda logits, uniform: draw(logits, excluded, uniform, temperature=temperature)


class StepLauncher:
    """Launches steps on one cache with the settings of one sampler. On a GPU a whole step is one CUDA graph."""

    def __init__(self, model: Transformer, cache: KVCache, sampler: Sampler) -> None:
        self._model, self._cache = model, cache
        self._draw, self._graph_key = _draw_of(sampler, model), sampler.graph_key
        self._token = torch.zeros(1, dtype=torch.int64, device=model.device)  # the id that the last step drew
        on_gpu = model.device.type == "cuda"
        # Used in turn, so that a launch does not overwrite the id that the host is waiting for.
        self._on_host = [torch.zeros(1, dtype=torch.int64, pin_memory=on_gpu) for _ in range(_STEPS_AT_ONCE)]
        self._events = [torch.cuda.Event() if on_gpu else None for _ in range(_STEPS_AT_ONCE)]  # type: ignore[no-untyped-call]
        self._launches = 0
        self._graph: CudaGraph[tuple[Tensor, Tensor, Tensor]] | None = None

    def serves(self, sampler: Sampler) -> bool:
        """Return whether a captured step draws as `sampler` does."""
        return sampler.graph_key == self._graph_key

    def launch(self, id_: int | None, sampler: Sampler) -> InFlightStep:
        """Start reading `id_`, or the id that the last step draws if it is None, and drawing the next one.

        Returns at once. The id is added to the cache, where it counts from now on.
        """
        turn = self._launches % _STEPS_AT_ONCE
        on_host, done = self._on_host[turn], self._events[turn]
        with self._model.on_device():
            token = self._token if id_ is None else torch.full_like(self._token, id_)
            inputs = token, torch.full((1,), sampler.uniform, dtype=torch.float64, device=token.device)
            self._cache.position.fill_(self._cache.length)
            if self._model.use_cuda_graph and self._graph is None:
                self._graph = CudaGraph(self._step, inputs)
            hidden, logits, self._token = self._graph.replay(inputs) if self._graph else self._step(*inputs)
            on_host.copy_(self._token, non_blocking=True)
            if done is not None:
                done.record()
            hidden = hidden.clone()  # which, unlike the logits, outlives the next launch
        self._cache.advance(1)
        self._launches += 1
        return InFlightStep(hidden, logits, sampler, on_host, done)

    def _step(self, token: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # A failed draw gives -1. The host learns that one step later, so until then some valid id must be read.
        hidden = self._model.forward_on_device(token.clamp(min=0), self._cache)
        logits = self._model.unembed(hidden)[0]
        return hidden, logits, self._draw(logits, uniform)
