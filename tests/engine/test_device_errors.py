"""A full or failed device is a ResourceError that says what to change, in whatever words it is reported."""

import errno
from pathlib import Path

import pytest
import torch

from gptoss_cli.engine import weights
from gptoss_cli.engine.device_errors import device_errors, has_failed, is_out_of_memory, resource_error
from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.selfcheck import check_kernels
from gptoss_cli.engine.sequence import Sequence
from gptoss_cli.errors import ExitStatus, Hint, ResourceError
from tests.engine.checkpoints import FULL, SLIDING, Shape, write_checkpoint
from tests.engine.open_generator import open_generator

FULL_DEVICE = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.63 GiB"),
    torch.OutOfMemoryError("HIP out of memory. Tried to allocate 20.00 MiB."),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("Triton Error [HIP]:  Code: 2, Messsage: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"),
    RuntimeError(
        "MPS backend out of memory (MPS allocated: 12.00 GB, other allocations: 3.00 GB, max allowed: 15 GB)."
    ),
]
FULL_HOST = [
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 13219200 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] data. DefaultCPUAllocator: not enough memory: you tried to allocate"
    ),
]
OTHERS = [
    RuntimeError("out of resource: shared memory, Required: 131072, Hardware limit: 101376"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    OSError(errno.EIO, "out of memory"),
]


@pytest.mark.parametrize("error", FULL_DEVICE, ids=str)
def test_a_full_device_is_told_in_every_wording(error: RuntimeError) -> None:
    with pytest.raises(ResourceError, match=r"^The device is out of memory$") as raised, device_errors():
        raise error
    assert raised.value.hints == (Hint.SMALLER_CONTEXT, Hint.OFFLOAD, Hint.CPU)
    assert raised.value.exit_status is ExitStatus.RESOURCES
    assert not has_failed(error)


@pytest.mark.parametrize("error", FULL_HOST, ids=str)
def test_a_full_host_is_told_apart(error: Exception) -> None:
    with pytest.raises(ResourceError, match=r"^Host memory is used up$") as raised, device_errors():
        raise error
    assert Hint.FREE_MEMORY in raised.value.hints


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_are_not_translated(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert resource_error(error) is None
    with pytest.raises(type(error)), device_errors():
        raise error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), Shape(layer_types=(SLIDING, FULL), window=11))


def _failing(error: Exception) -> object:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", [*FULL_DEVICE, *FULL_HOST], ids=str)
def test_a_model_that_does_not_fit_says_what_to_change(
    folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "assemble", _failing(error))
    with pytest.raises(ResourceError) as raised:
        open_generator(folder)
    assert len(raised.value.hints) >= 2
    assert ("do not fit on the GPU" in str(raised.value)) == (error in FULL_DEVICE)


def test_memory_that_runs_out_in_the_start_up_check_is_no_wrong_kernel(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_generator(folder).model
    monkeypatch.setattr(model.kernels, "route", _failing(RuntimeError("Triton Error [CUDA]: out of memory")))
    with pytest.raises(ResourceError, match=r"^The device is out of memory$"):
        check_kernels(model)


def test_a_sequence_goes_on_after_the_device_was_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_generator(folder).model
    sequence = Sequence(model, context_tokens=64, chunk_tokens=8)
    sequence.read([1, 2, 3])
    sequence.mark()
    with monkeypatch.context() as patch:
        patch.setattr(Transformer, "forward", _failing(torch.AcceleratorError("CUDA error: out of memory")))
        with pytest.raises(ResourceError):
            sequence.read([4])
    sequence.read([4])
    assert sequence.cached == [1, 2, 3, 4]
