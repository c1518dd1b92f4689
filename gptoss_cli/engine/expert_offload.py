"""The weights of experts: packed as in a checkpoint, or placed for a GPU, in its memory and in pinned host memory.

A layer has slots for experts in the GPU's memory. Kernels read an expert from its slot or, over PCIe, from host memory.
In the second case they also write it to the slot that was used longest ago, while they multiply with it:

    slot                     0    1    2
    holds expert             4    7    1        `held`
    was last used by token   90   88   91       `used_at`

    token 92 chooses experts 7 and 5: 7 is found in slot 1, 5 is read from host memory and written to slot 0

So the GPU holds the experts that were used last (LRU), and nothing of this waits for the host. The host keeps all
experts, so none is written back. If its memory does not suffice for that, it keeps only those for which there is no
slot when the model is loaded, and the slots keep the others.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Self

import torch
from torch import Tensor

from gptoss_cli.engine.pinned_memory import device_address, pinned
from gptoss_cli.placement.model_config import BLOCK_BYTES

_EMPTY = -1  # the expert of an empty slot


class Residency(Enum):
    """The experts that the GPU's memory holds: all of the model, the ones used last, or always the same ones."""

    ALL = auto()
    RECENT = auto()
    FIXED = auto()


@dataclass(frozen=True, slots=True)
class PackedExperts:
    """One MXFP4 matrix per expert (OCP MX v1.0): element j of a block is the low nibble of byte j // 2 if j is even.

    blocks [E, rows, G, 16] u8, scales [E, rows, G] u8 (E8M0, bias 127), bias [E, rows] bf16.
    """

    blocks: Tensor
    scales: Tensor
    bias: Tensor

    @property
    def nbytes(self) -> int:
        """The bytes of blocks and scales."""
        return self.blocks.nbytes + self.scales.nbytes

    def select(self, experts: Tensor | slice) -> Self:
        """Return only `experts`."""
        return type(self)(self.blocks[experts], self.scales[experts], self.bias[experts])


class SlotTables:
    """The state of the slots of all layers: one row per layer, of which `LayerSlots` is a view.

    held [L, E] int32, used_at [L, E] int64, and counts [L, 2] int64: experts that were chosen, and those of them that
    had a slot. Only as many columns are used as the layer has slots; the others are empty for ever.
    """

    def __init__(self, layers: int, experts: int, device: torch.device) -> None:
        self.held = torch.full((layers, experts), _EMPTY, dtype=torch.int32, device=device)
        self.used_at = torch.zeros(layers, experts, dtype=torch.int64, device=device)
        self.counts = torch.zeros(layers, 2, dtype=torch.int64, device=device)
        self._on_host: list[list[int]] = []

    def layer(self, number: int, slots: int, residency: Residency) -> "LayerSlots":
        """Return the slots of a layer, which hold the first experts."""
        self.held[number, :slots] = torch.arange(slots, dtype=torch.int32, device=self.held.device)
        return LayerSlots(self, number, slots, residency)

    def held_on_host(self, number: int) -> list[int]:
        """Return the expert of each slot of a layer. The host waits for the GPU at the first layer, for all of them.

        In the other layers slots may have changed since then, if another order of layers is run.
        """
        if number == 0 or not self._on_host:
            self._on_host = self.held.tolist()
        return self._on_host[number]


@dataclass(frozen=True, slots=True)
class LayerSlots:
    """The slots of one layer; see SlotTables."""

    tables: SlotTables
    number: int
    count: int
    residency: Residency

    @property
    def are_offloaded(self) -> bool:
        """True if experts of the model are in host memory. Otherwise expert e is in slot e."""
        return self.residency is not Residency.ALL

    @property
    def replaceable(self) -> int:
        """The number of slots whose expert may be replaced: all or none."""
        return self.count if self.residency is Residency.RECENT else 0

    @property
    def first_on_host(self) -> int:
        """The first expert that host memory keeps; it keeps all after it."""
        return 0 if self.residency is Residency.RECENT else self.count

    @property
    def held(self) -> Tensor:
        """The expert of each slot [E] int32, -1 if there is none."""
        return self.tables.held[self.number]

    @property
    def used_at(self) -> Tensor:
        """The last token that used each slot [E] int64, counted from 0."""
        return self.tables.used_at[self.number]

    @property
    def counts(self) -> Tensor:
        """[2] int64: experts that were chosen, and those of them that had a slot."""
        return self.tables.counts[self.number]

    def missing(self) -> list[int]:
        """Return the experts without a slot, as `held_on_host` knows them."""
        return sorted(set(range(len(self.held))) - set(self.tables.held_on_host(self.number)))

    def slot_of_expert(self) -> Tensor:
        """Return the slot of each expert [E] int64, -1 if it has none. Nothing waits for the host."""
        experts = len(self.held)
        found = torch.full((experts + 1,), -1, dtype=torch.int64, device=self.held.device)
        index = torch.where(self.held < 0, experts, self.held).long()
        return found.scatter(0, index, torch.arange(experts, device=self.held.device))[:experts]


class _SplitTensor:
    """A tensor [E, ...] u8: the first rows in slots on the device, the others, or all, in pinned host memory."""

    def __init__(self, whole: Tensor, device: torch.device, slots: LayerSlots, *, unit: int) -> None:
        """Copy `whole`. Offsets are multiples of `unit` bytes."""
        self.in_slots = whole[: slots.count].to(device, copy=True)
        self._host, self._first_on_host = pinned(whole[slots.first_on_host :], device), slots.first_on_host
        # An empty tensor has no address to count from.
        self.base = self.in_slots if slots.count else torch.zeros(BLOCK_BYTES, dtype=torch.uint8, device=device)
        self.unit, self.stride, self.row_shape = unit, whole.stride(0) // unit, whole.shape[1:]
        on_host = device_address(self._host, device) if len(self._host) else self.base.data_ptr()
        self.host_offset = self.distance(on_host) - self._first_on_host * self.stride

    def distance(self, address: int) -> int:
        """Return the distance of an address, as a GPU sees it, from `base` in units."""
        distance = address - self.base.data_ptr()
        assert distance % self.unit == 0, "allocations are aligned to more than a block"
        return distance // self.unit

    def on_host(self, expert: int) -> Tensor:
        """Return a row that is in host memory."""
        return self._host[expert - self._first_on_host]

    def offsets(self, slot_of_expert: Tensor) -> Tensor:
        """Return the offset of each expert [E] from `base` in units."""
        experts = torch.arange(len(slot_of_expert), device=slot_of_expert.device)
        there = slot_of_expert >= 0
        return torch.where(there, slot_of_expert, experts) * self.stride + torch.where(there, 0, self.host_offset)


class PlacedExperts:
    """PackedExperts for a GPU: some in slots of its memory, all or the others pinned in host memory.

    The bias [E, rows] is on the GPU. Both matrices of a layer have the same `slots`. `host_offsets` [2] int64 are the
    distances from slot 0 to where host memory has expert 0, or would have it: in 16 bytes for blocks, bytes for scales.
    """

    def __init__(self, packed: PackedExperts, device: torch.device, slots: LayerSlots) -> None:
        """Copy the experts to where they belong. Raises ResourceError if host memory cannot be pinned."""
        self.device = device
        self.slots = slots
        self.bias = packed.bias.to(device)
        self.blocks = _SplitTensor(packed.blocks, device, slots, unit=BLOCK_BYTES)
        self.scales = _SplitTensor(packed.scales, device, slots, unit=1)
        distances = [self.blocks.host_offset, self.scales.host_offset]
        self.host_offsets = torch.tensor(distances, dtype=torch.int64, device=device)
        self.nbytes = packed.nbytes
        self._fixed = None if slots.residency is Residency.RECENT else self._offsets()

    @property
    def slot_tensors(self) -> tuple[Tensor, Tensor]:
        """The slots: blocks as int32 words, and scales as u8."""
        return self.blocks.base.view(torch.int32), self.scales.base

    @property
    def slot_bytes(self) -> tuple[Tensor, Tensor]:
        """The slots: blocks and scales as u8."""
        return self.blocks.base, self.scales.base

    def offsets(self) -> tuple[Tensor, Tensor]:
        """Return how far after the start of the slots each expert is [E] int64: its blocks / 16, and its scales."""
        return self._fixed or self._offsets()

    def _offsets(self) -> tuple[Tensor, Tensor]:
        slot_of_expert = self.slots.slot_of_expert()
        return self.blocks.offsets(slot_of_expert), self.scales.offsets(slot_of_expert)


def place_layer(
    gate_up: PackedExperts, down: PackedExperts, device: torch.device, slots: LayerSlots
) -> tuple[PlacedExperts, PlacedExperts]:
    """Place both matrices of a layer, with the same slots."""
    return PlacedExperts(gate_up, device, slots), PlacedExperts(down, device, slots)


def place_single(
    gate_up: PackedExperts, down: PackedExperts, device: torch.device, slots: int, *, are_fixed: bool = False
) -> tuple[PlacedExperts, PlacedExperts]:
    """Place a layer that belongs to no model, with so many slots."""
    residency = Residency.FIXED if are_fixed else Residency.RECENT
    if slots == len(gate_up.bias):
        residency = Residency.ALL
    return place_layer(gate_up, down, device, SlotTables(1, len(gate_up.bias), device).layer(0, slots, residency))


def packed_only(experts: PackedExperts | PlacedExperts) -> PackedExperts:
    """Return `experts`, which must not be placed."""
    assert isinstance(experts, PackedExperts), "only the kernels of a GPU can read placed experts"
    return experts


class ExpertHits:
    """Reports how often a chosen expert was in the GPU's memory. One per model."""

    def __init__(self, layers: list[PlacedExperts]) -> None:
        """Count from now on, in one matrix of each layer."""
        self._counts = [each.slots.counts for each in layers if each.slots.are_offloaded]
        for counts in self._counts:
            counts.zero_()

    @property
    def hit_rate(self) -> float | None:
        """The fraction of expert reads that found the expert in the GPU's memory; None before any was counted."""
        if not self._counts:
            return None
        reads, hits = torch.stack(self._counts).sum(0).tolist()
        return hits / reads if reads else None
