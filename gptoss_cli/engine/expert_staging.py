"""Prefill of layers whose experts are partly in host memory: through two buffers in the GPU's memory.

A chunk of a prompt uses most experts of a layer. Those without a slot are copied in groups, on a stream of their own,
while the experts of the group before are multiplied, or the layers in between:

    copies      | layer 0: a -> buffer 0 | b -> buffer 1 |  c -> buffer 0        | layer 1: d -> buffer 1
    products                             | slots and a   | b           | c       | attention of layer 1 ...

The host decides what is copied from a look at the slots, once for all layers of a chunk. Where an expert is then read
from is decided on the device: an expert that is neither in a slot nor in a buffer is read from host memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_cli.engine.expert_offload import PlacedExperts

# Fewer tokens use less than half of the experts, and read these over PCIe, once for all tokens.
_LEAST_SHARE = 0.5
Offsets = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class StagedPart:
    """A part of a layer's experts, for the kernels of several tokens.

    `gate_up` and `down` are offsets of all experts, as PlacedExperts.offsets. `included` [E] bool is true for the
    experts of this part, which are the only ones whose offsets are valid; None for all of them.
    """

    gate_up: Offsets
    down: Offsets
    included: Tensor | None = None


class Staging:
    """Two buffers for experts, and a stream for the copies. One per model, whose layers have the same shapes."""

    def __init__(self, limit_bytes: int) -> None:
        """The buffers have together at most `limit_bytes`, but at least one expert each."""
        self._limit_bytes = limit_bytes
        self._buffers: _Buffers | None = None

    def parts(self, gate_up: PlacedExperts, down: PlacedExperts, slots: int) -> Iterator[StagedPart]:
        """Yield the parts of a layer, in the order in which they are to be computed, for so many `slots` of tokens.

        What is computed with a part must have been launched before the next one is asked for.
        """
        experts = len(gate_up.bias)
        missing = gate_up.slots.missing() if _uses_most(slots, experts) and gate_up.slots.are_offloaded else []
        if not missing:
            yield StagedPart(gate_up.offsets(), down.offsets())
            return
        if self._buffers is None:
            self._buffers = _Buffers(gate_up, down, self._limit_bytes)
        yield from self._buffers.parts(gate_up, down, missing)


def _uses_most(slots: int, experts: int) -> bool:
    """Return whether random choices for `slots` use so many of the experts that they are worth copying."""
    return 1 - (1 - 1 / experts) ** slots >= _LEAST_SHARE


class _Buffers:
    """The memory, whose rows are used in turn, and the events that say when its halves can be used."""

    def __init__(self, gate_up: PlacedExperts, down: PlacedExperts, limit_bytes: int) -> None:
        experts, device = len(gate_up.bias), gate_up.device
        expert_bytes = (gate_up.nbytes + down.nbytes) // experts
        self._size = max(1, min(experts, limit_bytes // (2 * expert_bytes)))
        self._rows = [
            torch.empty(2 * self._size, *part.row_shape, dtype=torch.uint8, device=device)
            for matrix in (gate_up, down)
            for part in (matrix.blocks, matrix.scales)
        ]
        self._groups = 0  # that were copied so far
        self._stream: torch.cuda.Stream | None = None
        self._free: list[torch.cuda.Event | None] = [None, None]
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def parts(self, gate_up: PlacedExperts, down: PlacedExperts, missing: list[int]) -> Iterator[StagedPart]:
        """See Staging.parts."""
        first, size = self._groups, self._size
        index = torch.full((len(gate_up.bias),), -1)
        index[missing] = torch.arange(len(missing)) + first * size
        index = index.to(gate_up.device, non_blocking=True)
        offsets = [
            torch.where(index < 0, direct, part.distance(rows.data_ptr()) + index % (2 * size) * part.stride)
            for matrix, own in ((gate_up, self._rows[:2]), (down, self._rows[2:]))
            for direct, part, rows in zip(matrix.offsets(), (matrix.blocks, matrix.scales), own, strict=True)
        ]
        for start in range(0, len(missing), size):
            half, group = self._groups % 2, self._groups
            self._copy(gate_up, down, missing[start : start + size], half)
            included = index // size == group
            if not start:
                included |= index < 0
            yield StagedPart((offsets[0], offsets[1]), (offsets[2], offsets[3]), included)
            self._groups += 1
            if self._stream is not None:
                self._free[half] = torch.cuda.current_stream(gate_up.device).record_event()

    def _copy(self, gate_up: PlacedExperts, down: PlacedExperts, experts: list[int], half: int) -> None:
        """Copy experts to one half of the buffers, as soon as their last user has read them."""
        free = self._free[half]
        if self._stream is not None and free is not None:
            self._stream.wait_event(free)
        with torch.cuda.stream(self._stream):
            parts = gate_up.blocks, gate_up.scales, down.blocks, down.scales
            for rows, part in zip(self._rows, parts, strict=True):
                for row, expert in enumerate(experts, half * self._size):
                    rows[row].copy_(part.on_host(expert), non_blocking=True)
        if self._stream is not None:
            torch.cuda.current_stream(gate_up.device).wait_event(self._stream.record_event())
