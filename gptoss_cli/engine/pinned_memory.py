"""Host memory that a GPU reads in place, over PCIe."""

import contextlib
import ctypes
import sys
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_cli.errors import Hint, ResourceError

_PORTABLE_AND_MAPPED = 1 | 2  # flags of cudaHostRegister
_MEMORY_ALLOCATION = 2  # cudaErrorMemoryAllocation


@dataclass(frozen=True, slots=True)
class PinnedRows:
    """A matrix [rows, columns] in pinned host memory, for kernels of a GPU.

    They find it `offset` elements after the start of `base`, a tensor on the device.
    """

    host: Tensor
    base: Tensor
    offset: int

    @property
    def device(self) -> torch.device:
        """The device that reads the rows."""
        return self.base.device

    @property
    def shape(self) -> torch.Size:
        """[rows, columns]."""
        return self.host.shape

    @property
    def is_cuda(self) -> bool:
        """False: the rows are in host memory."""
        return self.host.is_cuda


class PinningError(ResourceError):
    """Host memory cannot be pinned."""


def pinned_rows(rows: Tensor, device: torch.device) -> PinnedRows:
    """Return a copy of `rows` that kernels on `device` read in place. Raises PinningError."""
    host, base = pinned(rows, device), torch.zeros(1, dtype=rows.dtype, device=device)
    distance = device_address(host, device) - base.data_ptr()
    assert distance % rows.element_size() == 0, "allocations are aligned to more than an element"
    return PinnedRows(host, base, distance // rows.element_size())


def rows_on_device(rows: Tensor | PinnedRows) -> Tensor:
    """Return `rows`, which must be a tensor."""
    assert isinstance(rows, Tensor), "only the kernels of a GPU can read pinned rows"
    return rows


def pinned(part: Tensor, device: torch.device) -> Tensor:
    """Return a copy of `part` that a GPU can read in place. Raises PinningError.

    pin_memory() would round its size up to a power of two.
    """
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
        raise PinningError(
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


def device_address(pinned: Tensor, device: torch.device) -> int:
    """Return the address at which a GPU reads what `pinned` made.

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
