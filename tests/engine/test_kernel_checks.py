"""The check of every GPU kernel accepts right kernels, and names the wrong one."""

from itertools import islice

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from gptoss_cli.engine.kernel_checks import KernelCheck, KernelChecks, check_gpu, check_shape
from gptoss_cli.engine.kernels.cuda import CudaKernels
from gptoss_cli.engine.kernels.tuning import tuning_for
from tests.engine.fake_cuda import fake_cuda

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _checks(kernels: CudaKernels) -> KernelChecks:
    return KernelChecks(kernels, DEVICE, check_shape(interpreted=True))


@pytest.mark.slow
def test_every_kernel_is_right() -> None:
    checks = list(check_gpu(str(DEVICE)))
    assert [check.words for check in checks if not check.is_right] == []
    assert len(checks) >= 40


def test_a_wrong_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = CudaKernels.project_output

    def wrong(self: CudaKernels, x: Tensor, *arguments: Tensor, **options: torch.dtype) -> Tensor:
        result: Tensor = right(self, x, *arguments, **options)  # type: ignore[arg-type]
        result[0, 5:9] = 0  # one program's rows
        return result

    monkeypatch.setattr(CudaKernels, "project_output", wrong)
    found = {check.name: check for check in islice(_checks(CudaKernels(tuning_for(None))), 6)}
    assert [name for name, check in found.items() if not check.is_right] == ["output, float32", "output, bfloat16"]
    assert found["output, float32"].words == "output, float32: differs by 1, allowed is 0.0001"
    assert all(check.words for check in found.values())


def test_a_kernel_that_fails_is_named_with_its_error_and_the_others_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such instruction.\nA second line.")

    monkeypatch.setattr(CudaKernels, "unembed", fail)
    found = list(islice(_checks(CudaKernels(tuning_for(None))), 4))
    assert [check.is_right for check in found] == [True, True, False, True]
    assert found[2].words == "unembedding, float32: no such instruction"


def test_a_device_that_has_failed_is_not_touched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(CudaKernels, "project_qkv", fail)
    (check,) = _checks(CudaKernels(tuning_for(None)))
    assert check.words.startswith("qkv, float32: The GPU failed: CUDA error: an illegal memory access")


def test_a_result_that_is_not_a_number_is_wrong() -> None:
    assert not KernelCheck("qkv", float("nan"), 0.1).is_right
    assert not KernelCheck("qkv", 0.0, 0.1, "fails").is_right
    assert KernelCheck("qkv", 0.1, 0.1).is_right


@pytest.mark.slow
def test_the_checks_of_the_true_shape_mix_no_devices() -> None:
    with fake_cuda():
        kernels = CudaKernels(tuning_for((9, 0)))
        shape = check_shape(interpreted=False)
        names = [check.name for check in KernelChecks(kernels, torch.device("cuda:0"), shape) if check.problem]
    # Fake tensors have no values, by which the reference finds the tokens of an expert, and compares draws.
    assert [name for name in names if "experts" not in name and "draws" not in name and "scale" not in name] == []
