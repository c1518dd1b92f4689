"""The weights of experts: packed as in a checkpoint, or placed for a GPU, in its memory and in pinned host memory.

Kernels read experts in host memory over PCIe. `ExpertCache` moves the experts that are used most to the GPU.

    6 experts, 2 of them resident, after expert 4 was swapped with expert 1:

    expert               0   1   2   3   4   5
    row in GPU's half    0               1
    row in host's half       2   0   1       3

Kernels find either half through a table of offsets from the start of the GPU's half.
"""

import contextlib
import ctypes
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from gptoss_cli.errors import Hint, ResourceError
from gptoss_cli.placement.model_config import BLOCK_BYTES

_PORTABLE_AND_MAPPED = 1 | 2  # flags of cudaHostRegister
_MEMORY_ALLOCATION = 2  # cudaErrorMemoryAllocation
# An expert on the host must be used this many times as often as one on the GPU to replace it.
_MIN_GAIN = 2


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


class _SplitTensor:
    """A tensor [E, ...] u8 in two halves: the first rows on the device, the rest in pinned host memory."""

    def __init__(self, whole: Tensor, device: torch.device, resident: int, *, unit: int) -> None:
        """Split after `resident` rows. Offsets are multiples of `unit` bytes."""
        self._device = whole[:resident].to(device, copy=True)
        self._host = _pinned(whole[resident:], device)
        self._unit = unit
        self._host_address = _device_address(self._host, device)
        # An empty tensor has no address to count from.
        self.base = self._device if resident else torch.zeros(BLOCK_BYTES, dtype=torch.uint8, device=device)

    def half(self, on_device: bool) -> Tensor:
        return self._device if on_device else self._host

    def offset(self, on_device: bool, slot: int) -> int:
        """Return the distance of a row from `base` in units, as a GPU sees the addresses."""
        half = self.half(on_device)
        first = half.data_ptr() if on_device else self._host_address
        distance = first + slot * half.stride(0) - self.base.data_ptr()
        assert distance % self._unit == 0, "allocations are aligned to more than a block"
        return distance // self._unit

    def swap(self, device_slot: int, host_slot: int) -> None:
        """Exchange a row on the device with one in host memory, after everything that was queued before."""
        outgoing = self._device[device_slot].clone()
        self._device[device_slot].copy_(self._host[host_slot])
        self._host[host_slot].copy_(outgoing)


class PlacedExperts:
    """PackedExperts for a GPU: some in its memory, the others pinned in host memory. The bias [E, rows] is on the GPU.

    Kernels read the blocks of expert e `block_offsets[e]` times 16 bytes after the start of the GPU's half, and its
    scales at `scale_offsets[e]` bytes from the start of theirs, both [E] int64. They count in `uses` [E] int32 how
    often each expert was chosen.
    """

    def __init__(self, packed: PackedExperts, device: torch.device, resident: int) -> None:
        """Copy the first `resident` experts to `device`. Raises ResourceError if the others cannot be pinned."""
        self.device = device
        self.bias = packed.bias.to(device)
        self.uses = torch.zeros(len(packed.bias), dtype=torch.int32, device=device)
        self._blocks = _SplitTensor(packed.blocks, device, resident, unit=BLOCK_BYTES)
        self._scales = _SplitTensor(packed.scales, device, resident, unit=1)
        # For each expert: whether it is on the device, and its slot in that half.
        self._slots = [(e < resident, e if e < resident else e - resident) for e in range(len(packed.bias))]
        self._offsets = [self._offset_table(part) for part in (self._blocks, self._scales)]
        self.nbytes = packed.nbytes

    @property
    def addresses(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """block_offsets, scale_offsets, and the tensors that they count from: blocks as int32 words, scales as u8."""
        return *self._offsets, self._blocks.base.view(torch.int32), self._scales.base  # type: ignore[return-value]

    @property
    def resident(self) -> list[bool]:
        """For each expert whether it is in the GPU's memory."""
        return [on_device for on_device, _ in self._slots]

    def on_device(self, expert: int, stream: torch.cuda.Stream | None = None) -> PackedExperts:
        """Return one expert [1, ...] in the GPU's memory. If it is in host memory, this is a copy made on `stream`."""
        on_device, slot = self._slots[expert]
        bias = self.bias[expert : expert + 1]
        blocks, scales = (part.half(on_device)[slot : slot + 1] for part in (self._blocks, self._scales))
        if not on_device:
            with torch.cuda.stream(stream):
                blocks, scales = (part.to(self.device, non_blocking=True) for part in (blocks, scales))
        return PackedExperts(blocks, scales, bias)

    def swap(self, incoming: int, outgoing: int) -> None:
        """Move expert `incoming` to the GPU and `outgoing` to the host. Kernels launched later use the new offsets."""
        (_, host_slot), (_, device_slot) = self._slots[incoming], self._slots[outgoing]
        for part, offsets in zip((self._blocks, self._scales), self._offsets, strict=True):
            part.swap(device_slot, host_slot)
            offsets[[incoming, outgoing]] = offsets[[outgoing, incoming]]
        self._slots[incoming], self._slots[outgoing] = self._slots[outgoing], self._slots[incoming]

    def _offset_table(self, part: _SplitTensor) -> Tensor:
        return torch.tensor([part.offset(*slot) for slot in self._slots], dtype=torch.int64, device=self.device)


def packed_only(experts: PackedExperts | PlacedExperts) -> PackedExperts:
    """Return `experts`, which must not be placed."""
    assert isinstance(experts, PackedExperts), "only the kernels of a GPU can read placed experts"
    return experts


def _pinned(part: Tensor, device: torch.device) -> Tensor:
    """Return a copy of `part` that a GPU can read in place. pin_memory() would round its size up to a power of two."""
    copied = torch.empty_like(part, device="cpu").copy_(part)
    if device.type != "cuda" or not copied.nbytes:
        return copied
    runtime, address = torch.cuda.cudart(), copied.data_ptr()  # type: ignore[no-untyped-call]
    with torch.cuda.device(device):
        failure = int(runtime.cudaHostRegister(address, copied.nbytes, _PORTABLE_AND_MAPPED))
        if failure:
            _forget_last_error(device)
    if failure:
        cause = "there is not enough memory" if failure == _MEMORY_ALLOCATION else f"CUDA error {failure}"
        raise ResourceError(
            f"Pinning {copied.nbytes / 2**30:.1f} GiB of host memory failed: {cause}", Hint.FREE_MEMORY, Hint.CPU
        )
    weakref.finalize(copied, runtime.cudaHostUnregister, address)
    return copied


def _forget_last_error(device: torch.device) -> None:
    """Let an operation of torch report the last error of the CUDA runtime, which clears it.

    Otherwise the next kernel would be blamed for it.
    """
    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device=device)


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
        raise ResourceError(f"The GPU cannot read pinned host memory (CUDA driver error {failure})", Hint.CPU)
    return found.value


def _driver() -> ctypes.CDLL:
    """Load the CUDA driver's library: torch does not offer the function that is needed."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


class ExpertCache:
    """Keeps the experts that are used most in the GPU's memory. One per model."""

    def __init__(self, layers: Sequence[tuple[PlacedExperts, PlacedExperts]]) -> None:
        """`layers` are gate_up and down of each layer. Uses are counted in gate_up."""
        self._layers = [pair for pair in layers if not all(pair[0].resident)]
        self._frequencies = [[0.0] * len(gate_up.bias) for gate_up, _ in self._layers]
        self._hits, self._reads = 0, 0

    @property
    def hit_rate(self) -> float | None:
        """The fraction of expert reads that found the expert in the GPU's memory; None before any was counted."""
        return self._hits / self._reads if self._reads else None

    def promote(self, limit: int) -> int:
        """Count the uses since the last call, make up to `limit` swaps, and return how many were made."""
        if not self._layers:
            return 0
        uses = torch.stack([gate_up.uses for gate_up, _ in self._layers]).tolist()
        swaps = []
        for number, ((gate_up, down), counts) in enumerate(zip(self._layers, uses, strict=True)):
            gate_up.uses.zero_()
            self._hits += sum(count for count, resident in zip(counts, gate_up.resident, strict=True) if resident)
            self._reads += sum(counts)
            # Each call halves the weight of earlier uses.
            frequencies = [old / 2 + new for old, new in zip(self._frequencies[number], counts, strict=True)]
            self._frequencies[number] = frequencies
            for gain, incoming, outgoing in _useful_swaps(frequencies, gate_up.resident):
                swaps.append((gain, incoming, outgoing, gate_up, down))
        swaps.sort(key=lambda swap: swap[0], reverse=True)
        for _, incoming, outgoing, gate_up, down in swaps[:limit]:
            gate_up.swap(incoming, outgoing)
            down.swap(incoming, outgoing)
        return min(limit, len(swaps))


def _useful_swaps(frequencies: list[float], resident: list[bool]) -> list[tuple[float, int, int]]:
    """Return (gain, incoming, outgoing): the host's most used experts, each with one of the GPU's least used."""
    order = sorted(range(len(frequencies)), key=frequencies.__getitem__)
    outgoing = [expert for expert in order if resident[expert]]
    incoming = [expert for expert in reversed(order) if not resident[expert]]
    return [
        (frequencies[new] - frequencies[old], new, old)
        for new, old in zip(incoming, outgoing, strict=False)
        if frequencies[new] > _MIN_GAIN * frequencies[old]
    ]
