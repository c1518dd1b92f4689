"""The choice of a GPU, of its memory, and of its kernels."""

from gptoss_cli.placement.devices import ChosenGpu, choose_gpu
from gptoss_cli.placement.gpus import Cuda
from gptoss_cli.placement.hardware import Hardware
from gptoss_cli.placement.reasons import Code, Reason
from gptoss_cli.placement.request import PlacementRequest
from tests.placement.machines import gib, gpu, mac, machine


def _chosen(hardware: Hardware, request: PlacementRequest | None = None) -> ChosenGpu:
    chosen = choose_gpu(hardware, request or PlacementRequest())
    assert isinstance(chosen, ChosenGpu)
    return chosen


def _unusable(hardware: Hardware) -> Reason:
    reason = choose_gpu(hardware, PlacementRequest())
    assert isinstance(reason, Reason)
    return reason


def test_the_gpu_with_the_most_free_memory_is_chosen_with_all_of_it() -> None:
    chosen = _chosen(machine(gpu(80, 20), gpu(24)))
    assert (chosen.device, chosen.budget_bytes, chosen.total_bytes) == ("cuda:1", gib(24), gib(24))
    assert [reason.code for reason in chosen.reasons] == [Code.ROOMIEST_GPU]
    assert chosen.fallback is None


def test_a_requested_gpu_is_chosen_though_it_is_busy() -> None:
    chosen = _chosen(machine(gpu(80, 20), gpu(24)), PlacementRequest(device="cuda:0"))
    assert (chosen.device, chosen.budget_bytes) == ("cuda:0", gib(20))
    assert [reason.code for reason in chosen.reasons] == [Code.GPU_BUSY]


def test_a_limit_of_gpu_memory_is_the_budget() -> None:
    chosen = _chosen(machine(gpu(80, 20)), PlacementRequest(gpu_memory_bytes=gib(8)))
    assert (chosen.budget_bytes, chosen.total_bytes, chosen.reasons) == (gib(8), gib(80), ())


def test_without_triton_or_with_an_old_gpu_the_reference_kernels_run() -> None:
    fallbacks = [
        _chosen(hardware).fallback
        for hardware in (
            machine(gpu(24, capability=(7, 0))),
            machine(gpu(24), triton=False),
            machine(gpu(24), compiler=False),
            mac(32),
        )
    ]
    codes = [reason and reason.code for reason in fallbacks]
    assert codes == [Code.OLD_GPU, Code.NO_TRITON, Code.NO_COMPILER, Code.APPLE_GPU]


def test_the_reason_for_an_unusable_gpu_has_its_cause() -> None:
    fails = machine(gpu(24), cuda=Cuda.FAILS, cuda_problem="the driver is too old")
    assert _unusable(fails).text == (
        "torch cannot use the NVIDIA GPU (the driver is too old). Update the NVIDIA driver, or torch."
    )
    assert _unusable(machine(gpu(24), cuda=Cuda.NOT_BUILT, torch=None)).text.startswith("torch is a build without CUDA")
    assert _unusable(machine()).code is Code.NO_GPU
