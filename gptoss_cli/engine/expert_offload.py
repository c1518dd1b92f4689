"""The experts' weights: as a checkpoint holds them, and where they lie for a GPU.

What does not fit on the GPU is pinned in host memory, where the GPU's kernels read it over the link. An expert that is
used much changes places with one that is used little.
"""

import ctypes
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_cli.errors import ResourceError

_BLOCK_BYTES = 16
_PORTABLE_AND_MAPPED = 1 | 2  # flags of cudaHostRegister
# An expert on the host must be wanted this much more often than one on the GPU to take its place.
_WORTH_A_SWAP = 2


@dataclass(frozen=True, slots=True)
class PackedExperts:
    """One matrix per expert in MXFP4 (OCP MX v1.0): element j of a block is the low nibble of byte j // 2 if j is even.

    blocks [E, rows, G, 16] u8, scales [E, rows, G] u8 (E8M0, bias 127), bias [E, rows] bf16.
    """

    blocks: Tensor
    scales: Tensor
    bias: Tensor

    @property
    def nbytes(self) -> int:
        """Of blocks and scales."""
        return self.blocks.nbytes + self.scales.nbytes

    def some(self, which: Tensor | slice) -> "PackedExperts":
        """Those experts alone."""
        return PackedExperts(self.blocks[which], self.scales[which], self.bias[which])


class PlacedExperts:
    """PackedExperts of a GPU: those in its memory, and the others pinned in the host's. The bias [E, rows] is there.

    Kernels find expert e's blocks `block_places[e]` times 16 bytes after the first of the GPU's own, and its scales
    `scale_places[e]` bytes after the first of those [E] int64; `uses` [E] int32 is counted by the kernels.
    """

    def __init__(self, packed: PackedExperts, device: torch.device, resident: int) -> None:
        """Copy the first `resident` experts to `device`. Raises ResourceError if the others cannot be pinned."""
        self.device = device
        self.bias = packed.bias.to(device)
        self.uses = torch.zeros(len(packed.bias), dtype=torch.int32, device=device)
        self._blocks = _Halves(packed.blocks, device, resident, unit=_BLOCK_BYTES)
        self._scales = _Halves(packed.scales, device, resident, unit=1)
        # On which side each expert is, and in which of its slots.
        self._slots = [(e < resident, e if e < resident else e - resident) for e in range(len(packed.bias))]
        self._tables = [self._table(part) for part in (self._blocks, self._scales)]
        self.nbytes = packed.nbytes

    @property
    def device_bytes(self) -> int:
        """Of `nbytes`, what is in the GPU's memory; and the bias."""
        return self._blocks.side(True).nbytes + self._scales.side(True).nbytes + self.bias.nbytes

    @property
    def addresses(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """block_places, scale_places, and what they count from: blocks as int32 words, scales as bytes."""
        return *self._tables, self._blocks.base.view(torch.int32), self._scales.base  # type: ignore[return-value]

    @property
    def resident(self) -> list[bool]:
        """Of each expert whether it is in the GPU's memory."""
        return [on_device for on_device, _ in self._slots]

    def on_device(self, expert: int, stream: "torch.cuda.Stream | None" = None) -> PackedExperts:
        """One expert [1, ...] in the GPU's memory; if it is not there, a copy that is made on `stream`."""
        on_device, slot = self._slots[expert]
        bias = self.bias[expert : expert + 1]
        blocks, scales = (part.side(on_device)[slot : slot + 1] for part in (self._blocks, self._scales))
        if not on_device:
            with torch.cuda.stream(stream):
                blocks, scales = (part.to(self.device, non_blocking=True) for part in (blocks, scales))
        return PackedExperts(blocks, scales, bias)

    def swap(self, inward: int, outward: int) -> None:
        """Exchange expert `inward` of the host with `outward` of the GPU; later kernels read them where they are."""
        (_, from_slot), (_, to_slot) = self._slots[inward], self._slots[outward]
        for part, table in zip((self._blocks, self._scales), self._tables, strict=True):
            part.exchange(to_slot, from_slot)
            table[[inward, outward]] = table[[outward, inward]]
        self._slots[inward], self._slots[outward] = self._slots[outward], self._slots[inward]

    def _table(self, part: "_Halves") -> Tensor:
        return torch.tensor([part.place(*slot) for slot in self._slots], dtype=torch.int64, device=self.device)


def packed_only(experts: PackedExperts | PlacedExperts) -> PackedExperts:
    """`experts`, which were not placed."""
    assert isinstance(experts, PackedExperts), "only a GPU's kernels take placed experts"
    return experts


class _Halves:
    """A tensor [E, ...] u8, its first rows on the device and the rest pinned; places count in units of bytes."""

    def __init__(self, whole: Tensor, device: torch.device, resident: int, *, unit: int) -> None:
        self._device = whole[:resident].to(device, copy=True)
        self._host = _pinned(whole[resident:], device)
        self._unit = unit
        self._host_address = _device_address(self._host, device)
        # An empty tensor has no address to count from.
        self.base = self._device if resident else torch.zeros(_BLOCK_BYTES, dtype=torch.uint8, device=device)

    def side(self, on_device: bool) -> Tensor:
        return self._device if on_device else self._host

    def place(self, on_device: bool, slot: int) -> int:
        side = self.side(on_device)
        first = side.data_ptr() if on_device else self._host_address
        distance = first + slot * side.stride(0) - self.base.data_ptr()
        assert distance % self._unit == 0, "allocations are aligned to more than a block"
        return distance // self._unit

    def exchange(self, slot: int, host_slot: int) -> None:
        """Device row `slot` and host row `host_slot` change places, after all that was queued before."""
        leaving = self._device[slot].clone()
        self._device[slot].copy_(self._host[host_slot])
        self._host[host_slot].copy_(leaving)


def _pinned(part: Tensor, device: torch.device) -> Tensor:
    """A copy of `part` that a GPU can read where it is. pin_memory() would round its size up to a power of two."""
    copied = torch.empty_like(part).copy_(part)
    if device.type != "cuda" or not copied.nbytes:
        return copied
    runtime, address = torch.cuda.cudart(), copied.data_ptr()  # type: ignore[no-untyped-call]
    with torch.cuda.device(device):
        failure = int(runtime.cudaHostRegister(address, copied.nbytes, _PORTABLE_AND_MAPPED))
    if failure:
        raise ResourceError(
            f"Pinning {copied.nbytes / 2**30:.1f} GiB of host memory fails (CUDA error {failure}). "
            "Raise the limit with ulimit -l, or use --device cpu"
        )
    weakref.finalize(copied, runtime.cudaHostUnregister, address)
    return copied


def _device_address(pinned: Tensor, device: torch.device) -> int:
    """Return the address at which a GPU reads what `_pinned` made.

    On Linux it is the host's own address. Under Windows' display driver model, which WSL2 uses too, it is another one:
    cudaDevAttrCanUseHostPointerForRegisteredMem is 0 there. Memory from pin_memory() has one address everywhere, but
    its size is rounded up to a power of two.
    """
    address = pinned.data_ptr()
    if device.type != "cuda" or not pinned.nbytes or torch.version.hip:
        return address
    found = ctypes.c_uint64()
    with torch.cuda.device(device):
        failure = _driver().cuMemHostGetDevicePointer_v2(ctypes.byref(found), ctypes.c_void_p(address), 0)
    if failure:
        raise ResourceError(
            f"The GPU does not reach pinned host memory (CUDA driver error {failure}). "
            "Use --execution mxfp4, or --device cpu"
        )
    return found.value


def _driver() -> ctypes.CDLL:
    """Load the CUDA driver's library: torch does not offer the function that is needed."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


class ExpertCache:
    """Brings the experts that are used most to the GPU, a few at a time. One per model."""

    def __init__(self, layers: Sequence[tuple[PlacedExperts, PlacedExperts]]) -> None:
        """`layers` are the two matrices of each layer, of which the first counts the uses."""
        self._layers = [pair for pair in layers if not all(pair[0].resident)]
        self._weights = [[0.0] * len(gate_up.bias) for gate_up, _ in self._layers]
        self._hits, self._reads = 0, 0

    @property
    def hit_rate(self) -> float | None:
        """The share of the experts read so far that were in the GPU's memory; None before any was counted."""
        return self._hits / self._reads if self._reads else None

    def promote(self, most: int) -> int:
        """Take in the uses since the last call, and swap up to `most` pairs where it pays -> how many were swapped."""
        if not self._layers:
            return 0
        uses = torch.stack([gate_up.uses for gate_up, _ in self._layers]).tolist()
        gains = []
        for number, ((gate_up, down), counts) in enumerate(zip(self._layers, uses, strict=True)):
            gate_up.uses.zero_()
            self._hits += sum(count for count, here in zip(counts, gate_up.resident, strict=True) if here)
            self._reads += sum(counts)
            # What was long ago counts less.
            weights = [old / 2 + new for old, new in zip(self._weights[number], counts, strict=True)]
            self._weights[number] = weights
            for gain, inward, outward in _worthwhile(weights, gate_up.resident):
                gains.append((gain, inward, outward, gate_up, down))
        gains.sort(key=lambda found: found[0], reverse=True)
        for _, inward, outward, gate_up, down in gains[:most]:
            gate_up.swap(inward, outward)
            down.swap(inward, outward)
        return min(most, len(gains))


def _worthwhile(counts: list[float], resident: list[bool]) -> list[tuple[float, int, int]]:
    """(gain, inward, outward): the most used experts of the host, each with one of the least used of the GPU."""
    order = sorted(range(len(counts)), key=counts.__getitem__)
    outward = [expert for expert in order if resident[expert]]
    inward = [expert for expert in reversed(order) if not resident[expert]]
    return [
        (counts[new] - counts[old], new, old)
        for new, old in zip(inward, outward, strict=False)
        if counts[new] > _WORTH_A_SWAP * counts[old]
    ]
