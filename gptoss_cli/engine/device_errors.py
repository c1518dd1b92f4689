"""Errors of a device that has failed or is full, translated into ResourceError."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gptoss_cli.errors import Hint, ResourceError, first_line

# torch's allocators have a class of their own for this, except Apple's. Triton, graphs, events and drivers say it in
# words. The libraries of matrix products make their workspace at first use; without memory for it some report that they
# are not initialized.
_FULL_DEVICE = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "HIPBLAS_STATUS_ALLOC_FAILED",
    "rocblas_status_memory_error",
    "cudaErrorMemoryAllocation",
    "hipErrorOutOfMemory",
)
_FULL_HOST = ("can't allocate memory", "DefaultCPUAllocator: not enough memory", "Cannot allocate memory")


def is_out_of_memory(exc: BaseException) -> bool:
    """Return True if a device ran out of memory, in whatever words."""
    if isinstance(exc, torch.OutOfMemoryError):
        return True
    return isinstance(exc, RuntimeError) and any(words in str(exc) for words in _FULL_DEVICE)


def is_host_out_of_memory(exc: BaseException) -> bool:
    """Return True if host memory cannot be allocated."""
    if isinstance(exc, MemoryError):
        return True
    return isinstance(exc, RuntimeError) and any(words in str(exc) for words in _FULL_HOST)


def resource_error(exc: BaseException) -> ResourceError | None:
    """Return the error for a device or a host without memory, or for a device that has failed; None for others."""
    if is_host_out_of_memory(exc):
        return ResourceError("Host memory is used up", Hint.FREE_MEMORY, Hint.SMALLER_CONTEXT)
    if is_out_of_memory(exc):
        hints = Hint.SMALLER_CONTEXT, Hint.OFFLOAD, Hint.CPU
        return ResourceError("The device is out of memory", *hints)
    if isinstance(exc, torch.AcceleratorError):
        return ResourceError(f"The GPU failed: {first_line(exc)}", Hint.START_AGAIN, Hint.CPU)
    return None


def has_failed(exc: BaseException | None) -> bool:
    """Return True for an error after which nothing on the device can be used."""
    return isinstance(exc, torch.AcceleratorError) and not is_out_of_memory(exc)


@contextmanager
def device_errors() -> Iterator[None]:
    """Translate the errors of a device that has failed or is full into ResourceError."""
    try:
        yield
    except (RuntimeError, MemoryError) as exc:
        error = resource_error(exc)
        if error is None:
            raise
        raise error from exc
