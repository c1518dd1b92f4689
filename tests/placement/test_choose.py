"""Placements on described machines, which never use more memory than there is."""

from dataclasses import dataclass, replace

import pytest

from gptoss_cli.errors import Hint, ResourceError, UsageError
from gptoss_cli.placement.choose import GPU_WORK_BYTES, choose
from gptoss_cli.placement.gpus import Cuda, Gpu
from gptoss_cli.placement.hardware import Hardware
from gptoss_cli.placement.memory import STAGING_BYTES, model_memory
from gptoss_cli.placement.model_config import ModelConfig
from gptoss_cli.placement.placement import KernelSet, Placement
from gptoss_cli.placement.reasons import Code
from gptoss_cli.placement.request import PlacementRequest
from gptoss_cli.settings import Activations, Dense, Dtype, Execution
from tests.placement.machines import GIB, GPT_OSS_20B, GPT_OSS_120B, gib, gpu, mac, machine

_FULL, _USUAL = 131_072, 16_384
_CPU, _OFFLOAD, _MXFP4 = Execution.CPU, Execution.OFFLOAD, Execution.MXFP4
_20B, _120B = GPT_OSS_20B, GPT_OSS_120B
_OF_REQUESTS = {
    *(Code.CPU_REQUESTED, Code.DENSE_ON_GPU, Code.ACTIVATIONS_ON_GPU),
    *(Code.SEQUENCES, Code.ONE_SEQUENCE_ON_GPU),
}
_TOO_SMALL = {Code.FROM_DISK, Code.HOST_TOO_SMALL}
_OLD_DRIVER = "CUDA driver version is insufficient"


@dataclass(frozen=True)
class _Case:
    """`codes` are required reasons, `no` forbidden ones. `experts` is roughly the fraction of experts on the GPU."""

    machine: Hardware
    config: ModelConfig
    execution: Execution
    context: int
    codes: tuple[Code, ...] = ()
    no: tuple[Code, ...] = ()
    device: str | None = None
    experts: float | None = None


_FITS = (Code.FITS_GPU,)
_SPLIT = (Code.EXPERTS_ON_HOST, Code.SHORTER_CONTEXT)
_SLOW_DISK = (Code.FROM_DISK, Code.SHORTER_CONTEXT)

_CASES = {
    # Without a GPU.
    "20b, 64 GiB of RAM": _Case(machine(), _20B, _CPU, _FULL, (Code.NO_GPU,), (Code.FROM_DISK,)),
    "20b, 32 GiB of RAM": _Case(machine(ram=32), _20B, _CPU, _FULL, (Code.NO_GPU,), (Code.SHORTER_CONTEXT,)),
    "20b, 16 GB laptop": _Case(machine(ram=15.5, available=13.5), _20B, _CPU, 33_024, (Code.SHORTER_CONTEXT,)),
    "20b, 8 GB laptop": _Case(machine(ram=7.6, available=6), _20B, _CPU, _USUAL, _SLOW_DISK),
    "20b, 4 GB board": _Case(machine(ram=3.8, available=3), _20B, _CPU, _USUAL, _SLOW_DISK),
    "120b, 96 GiB of RAM": _Case(machine(ram=96), _120B, _CPU, _FULL, (Code.NO_GPU,), (Code.FROM_DISK,)),
    "120b, 64 GiB of RAM": _Case(machine(), _120B, _CPU, _USUAL, _SLOW_DISK),
    "120b, 16 GB laptop": _Case(machine(ram=15.5, available=13.5), _120B, _CPU, _USUAL, _SLOW_DISK),
    "20b, memory unknown": _Case(
        machine(available_bytes=None, memory_bytes=None), _20B, _CPU, _FULL, (Code.MEMORY_UNKNOWN, Code.NO_GPU)
    ),
    "20b, 24 GiB cgroup": _Case(
        machine(available=23.5, group_limit_bytes=gib(24)), _20B, _CPU, _FULL, (Code.GROUP_LIMIT,), (Code.FROM_DISK,)
    ),
    "20b, 4 GiB cgroup": _Case(
        machine(available=3.8, group_limit_bytes=gib(4)), _20B, _CPU, _USUAL, (Code.GROUP_LIMIT, *_SLOW_DISK)
    ),
    # 20b on one GPU.
    "20b, 4 GiB": _Case(machine(gpu(4)), _20B, _OFFLOAD, _USUAL, _SPLIT, experts=0.04),
    "20b, 4 GiB, a desktop on it": _Case(machine(gpu(4, 3.4)), _20B, _OFFLOAD, 5_376, _SPLIT, experts=0.0),
    "20b, 3 GiB": _Case(machine(gpu(3)), _20B, _CPU, _FULL, (Code.GPU_TOO_SMALL,)),
    "20b, 6 GiB": _Case(machine(gpu(6)), _20B, _OFFLOAD, _USUAL, _SPLIT, experts=0.25),
    "20b, 8 GiB": _Case(machine(gpu(8), ram=32), _20B, _OFFLOAD, _USUAL, _SPLIT, experts=0.46),
    "20b, 10 GiB": _Case(machine(gpu(10), ram=32), _20B, _OFFLOAD, _USUAL, _SPLIT, experts=0.67),
    "20b, 12 GiB": _Case(machine(gpu(12), ram=32), _20B, _OFFLOAD, _USUAL, _SPLIT, experts=0.88),
    "20b, 13 GiB": _Case(machine(gpu(13)), _20B, _MXFP4, 22_016, (*_FITS, Code.SHORTER_CONTEXT), experts=1),
    "20b, T4": _Case(machine(gpu(14.7, capability=(7, 5))), _20B, _MXFP4, 96_512, _FITS, (Code.OLD_GPU,)),
    "20b, 16 GiB": _Case(machine(gpu(16)), _20B, _MXFP4, _FULL, (*_FITS, Code.EMBEDDING_ON_HOST), experts=1),
    "20b, 24 GiB": _Case(machine(gpu(24)), _20B, _MXFP4, _FULL, _FITS, (Code.EMBEDDING_ON_HOST,), experts=1),
    "20b, 32 GiB": _Case(machine(gpu(32)), _20B, _MXFP4, _FULL, _FITS),
    "20b, 48 GiB": _Case(machine(gpu(48)), _20B, _MXFP4, _FULL, _FITS),
    "20b, 80 GiB": _Case(machine(gpu(80)), _20B, _MXFP4, _FULL, _FITS),
    "20b, 96 GiB": _Case(machine(gpu(96)), _20B, _MXFP4, _FULL, _FITS),
    "20b, 141 GiB": _Case(machine(gpu(141)), _20B, _MXFP4, _FULL, _FITS),
    # 120b on one GPU.
    "120b, 4 GiB": _Case(machine(gpu(4), ram=96), _120B, _CPU, _FULL, (Code.GPU_TOO_SMALL,)),
    "120b, 6 GiB": _Case(machine(gpu(6), ram=96), _120B, _OFFLOAD, _USUAL, _SPLIT, experts=0.03),
    "120b, 8 GiB": _Case(machine(gpu(8), ram=96), _120B, _OFFLOAD, _USUAL, _SPLIT, experts=0.06),
    "120b, 10 GiB": _Case(machine(gpu(10), ram=96), _120B, _OFFLOAD, _USUAL, _SPLIT, experts=0.10),
    "120b, 12 GiB": _Case(machine(gpu(12), ram=96), _120B, _OFFLOAD, _USUAL, _SPLIT, experts=0.13),
    "120b, 16 GiB": _Case(machine(gpu(16), ram=96), _120B, _OFFLOAD, _USUAL, _SPLIT, experts=0.20),
    "120b, 24 GiB": _Case(machine(gpu(24), ram=96), _120B, _OFFLOAD, _USUAL, _SPLIT, experts=0.34),
    "120b, 24 GiB, little RAM": _Case(
        machine(gpu(24), ram=32), _120B, _CPU, _USUAL, (Code.HOST_TOO_SMALL, *_SLOW_DISK)
    ),
    "120b, 32 GiB": _Case(machine(gpu(32), ram=64), _120B, _OFFLOAD, _USUAL, _SPLIT, experts=0.49),
    "120b, 48 GiB, little RAM": _Case(machine(gpu(48), ram=32), _120B, _OFFLOAD, _USUAL, _SPLIT, experts=0.77),
    "120b, 64 GiB": _Case(machine(gpu(64)), _120B, _MXFP4, 103_424, (*_FITS, Code.EMBEDDING_ON_HOST)),
    "120b, 80 GiB": _Case(machine(gpu(80)), _120B, _MXFP4, _FULL, _FITS, (Code.EMBEDDING_ON_HOST,)),
    "120b, 96 GiB": _Case(machine(gpu(96)), _120B, _MXFP4, _FULL, _FITS),
    "120b, 141 GiB": _Case(machine(gpu(141)), _120B, _MXFP4, _FULL, _FITS),
    # Several GPUs, busy ones, slices.
    "20b, 8 and 24 GiB": _Case(
        machine(gpu(8), gpu(24)), _20B, _MXFP4, _FULL, (Code.ROOMIEST_GPU, *_FITS), device="cuda:1"
    ),
    "20b, 24 GiB in use and 12 GiB": _Case(
        machine(gpu(24, 2), gpu(12)), _20B, _OFFLOAD, _USUAL, (Code.ROOMIEST_GPU,), (Code.GPU_BUSY,), device="cuda:1"
    ),
    "20b, 24 GiB with 5 free": _Case(machine(gpu(24, 5)), _20B, _OFFLOAD, _USUAL, (Code.GPU_BUSY, *_SPLIT)),
    "20b, 24 GiB with 2 free": _Case(
        machine(gpu(24, 2)), _20B, _CPU, _FULL, (Code.GPU_BUSY, Code.GPU_TOO_SMALL), (Code.NO_GPU,)
    ),
    "120b, 80 GiB with 40 free": _Case(machine(gpu(80, 40)), _120B, _OFFLOAD, _USUAL, (Code.GPU_BUSY, *_SPLIT)),
    "20b, MIG 1g.10gb": _Case(machine(gpu(9.75, capability=(9, 0))), _20B, _OFFLOAD, _USUAL, _SPLIT, experts=0.64),
    "20b, MIG 3g.40gb": _Case(machine(gpu(39.5, capability=(9, 0))), _20B, _MXFP4, _FULL, _FITS),
    # Host memory beside a GPU.
    "20b, 8 GiB, 16 GB of RAM": _Case(
        machine(gpu(8), ram=15.5, available=13.5), _20B, _OFFLOAD, _USUAL, _SPLIT, (Code.EXPERTS_FIXED,)
    ),
    "20b, 8 GiB, 8 GB of RAM": _Case(
        machine(gpu(8), ram=7.6, available=6), _20B, _CPU, _USUAL, (Code.HOST_TOO_SMALL, *_SLOW_DISK)
    ),
    "20b, 12 GiB, 8 GB of RAM": _Case(
        machine(gpu(12), ram=7.6, available=6), _20B, _OFFLOAD, _USUAL, (Code.EXPERTS_FIXED, *_SPLIT)
    ),
    "20b, 16 GiB, 8 GB of RAM": _Case(machine(gpu(16), ram=7.6, available=6), _20B, _MXFP4, _FULL, _FITS),
    "120b, 80 GiB, 1 GiB of RAM": _Case(
        machine(gpu(80), ram=1, available=0.9), _120B, _MXFP4, _FULL, (Code.HOST_TOO_SMALL, *_FITS)
    ),
    "20b, described": _Case(
        machine(available=28.8, reserved_bytes=gib(3.2)), _20B, _CPU, _FULL, (Code.MEMORY_RESERVED,)
    ),
    "20b, 8 GiB, 4 GiB cgroup": _Case(
        machine(gpu(8), available=3.8, group_limit_bytes=gib(4)),
        _20B,
        _CPU,
        _USUAL,
        (Code.GROUP_LIMIT, Code.HOST_TOO_SMALL),
    ),
    # A GPU that torch or Triton cannot use.
    "20b, torch for the CPU": _Case(
        machine(gpu(24), cuda=Cuda.NOT_BUILT), _20B, _CPU, _FULL, (Code.TORCH_WITHOUT_CUDA,), (Code.NO_GPU,)
    ),
    "20b, old driver": _Case(
        machine(gpu(24), cuda=Cuda.FAILS, cuda_problem=_OLD_DRIVER), _20B, _CPU, _FULL, (Code.CUDA_FAILS,)
    ),
    "20b, hidden GPU": _Case(machine(gpu(24), cuda=Cuda.HIDDEN), _20B, _CPU, _FULL, (Code.GPU_HIDDEN,)),
    "20b, 24 GiB, no compiler": _Case(
        machine(gpu(24), compiler=False), _20B, _MXFP4, _FULL, (Code.NO_COMPILER, *_FITS)
    ),
    "20b, 8 GiB, no compiler": _Case(
        machine(gpu(8), compiler=False), _20B, _CPU, _FULL, (Code.NO_COMPILER, Code.GPU_TOO_SMALL)
    ),
    "20b, 24 GiB, no Triton": _Case(machine(gpu(24), triton=False), _20B, _MXFP4, _FULL, (Code.NO_TRITON, *_FITS)),
    "20b, 8 GiB, no Triton": _Case(machine(gpu(8), triton=False), _20B, _CPU, _FULL, (Code.NO_TRITON,)),
    "20b, 24 GiB of 2016": _Case(
        machine(gpu(24, capability=(6, 1))), _20B, _MXFP4, _FULL, (Code.OLD_GPU, *_FITS), (Code.NO_TRITON,)
    ),
    "20b, 8 GiB of 2016": _Case(
        machine(gpu(8, capability=(6, 1))), _20B, _CPU, _FULL, (Code.OLD_GPU, Code.GPU_TOO_SMALL)
    ),
    "20b, 24 GiB of AMD": _Case(machine(gpu(24), rocm="7.1"), _20B, _MXFP4, _FULL, (Code.ROCM_UNTESTED, *_FITS)),
    # Apple's GPUs, which have no memory of their own.
    "20b, Mac of 8 GiB": _Case(mac(8), _20B, _CPU, _USUAL, (Code.APPLE_GPU, Code.GPU_TOO_SMALL, *_SLOW_DISK)),
    "20b, Mac of 16 GiB": _Case(mac(16), _20B, _CPU, 72_448, (Code.APPLE_GPU, Code.GPU_TOO_SMALL), (Code.FROM_DISK,)),
    "20b, Mac of 24 GiB": _Case(mac(24), _20B, _MXFP4, _FULL, (Code.APPLE_GPU, *_FITS), (Code.NO_GPU,), device="mps"),
    "120b, Mac of 64 GiB": _Case(mac(64), _120B, _CPU, _USUAL, (Code.APPLE_GPU, Code.GPU_TOO_SMALL)),
    "120b, Mac of 128 GiB": _Case(mac(128), _120B, _MXFP4, _FULL, (Code.APPLE_GPU, *_FITS), device="mps"),
}


@pytest.mark.parametrize("name", _CASES)
def test_each_machine_gets_the_expected_placement(name: str) -> None:
    case = _CASES[name]
    placement = choose(case.config, case.machine)
    codes = [reason.code for reason in placement.reasons]
    assert (placement.execution, placement.context_tokens) == (case.execution, case.context), codes
    assert set(case.codes) <= set(codes)
    assert not set(case.no) & set(codes)
    assert placement.device == (case.device or ("cpu" if case.execution is _CPU else "cuda:0"))
    if case.experts is not None:
        assert placement.gpu_experts / placement.experts == pytest.approx(case.experts, abs=0.006)


@pytest.mark.parametrize("name", _CASES)
def test_the_parts_of_a_placement_add_up(name: str) -> None:
    case = _CASES[name]
    placement, sizes = choose(case.config, case.machine), model_memory(case.config)
    uses = [placement.host] if placement.gpu is None else [placement.gpu, placement.host]
    # Host memory keeps all experts if it can, so that the GPU can hold any of them.
    kept = placement.weights is not None and placement.execution is _OFFLOAD and placement.weights.host_keeps_all
    on_gpu = sizes.expert_bytes * placement.gpu_experts
    assert sum(use.experts_bytes for use in uses) == sizes.experts_bytes + (on_gpu if kept else 0)
    assert (placement.execution is _OFFLOAD and not kept) == (Code.EXPERTS_FIXED in _codes(placement))
    dense = sum(use.dense_bytes for use in uses)
    uncounted = sizes.embedding_bytes if Code.EMBEDDING_ON_DISK in _codes(placement) else 0
    assert dense + uncounted == sizes.dense_bytes + sizes.embedding_bytes
    if placement.host.room_bytes is not None and not _TOO_SMALL & _codes(placement):
        assert placement.host.used_bytes <= placement.host.room_bytes
    if placement.gpu is not None:
        apple = case.machine.apple_gpu
        budget = max(gpu.free_bytes for gpu in (case.machine.gpus if apple is None else (apple,)))
        assert placement.gpu.used_bytes <= budget
        assert placement.gpu.free_bytes == budget - placement.gpu.used_bytes
    assert len(set(placement.reasons)) == len(placement.reasons)
    slow = {Code.OLD_GPU, Code.NO_TRITON, Code.NO_COMPILER, Code.APPLE_GPU}
    fast = placement.execution is not _CPU and not slow & _codes(placement)
    assert (placement.kernels is KernelSet.TRITON) == fast
    assert (placement.weights is None) == (placement.execution is _CPU)
    if placement.weights is not None:
        assert placement.weights.gpu_experts == placement.gpu_experts
        assert placement.weights.embedding_on_gpu == (placement.host.dense_bytes + uncounted == 0)


@pytest.mark.parametrize("config", [_20B, _120B], ids=["20b", "120b"])
@pytest.mark.parametrize("gpus", [(), (gpu(8),), (gpu(16),), (gpu(64),)])
def test_more_is_used_than_there_is_only_with_the_missing_bytes_as_a_reason(
    config: ModelConfig, gpus: tuple[Gpu, ...]
) -> None:
    for size in range(4, 160):
        placement = choose(config, machine(*gpus, available=size / 2))
        missing = [reason.missing_bytes for reason in placement.reasons if reason.code in _TOO_SMALL]
        assert placement.host.used_bytes - gib(size / 2) <= max(missing, default=0)


def test_more_gpu_memory_never_means_fewer_experts_on_it() -> None:
    for config in (_20B, _120B):
        counts = [choose(config, machine(gpu(size / 2), ram=128)).gpu_experts for size in range(2, 300)]
        assert counts == sorted(counts)
        assert (counts[0], counts[-1]) == (0, model_memory(config).experts)


def test_a_model_that_cannot_run_at_all_is_an_error_with_the_missing_memory() -> None:
    tiny = machine(available=0.5, group_limit_bytes=gib(0.5))
    with pytest.raises(ResourceError, match="lacks 611 MiB for a context of 4,096 tokens"):
        choose(_20B, tiny)


_IMPOSSIBLE: list[tuple[PlacementRequest, Hardware, str, tuple[Hint, ...]]] = [
    (
        PlacementRequest(execution=_MXFP4),
        machine(gpu(8)),
        "execution mxfp4 is not possible. cuda:0 lacks 4.6 GiB",
        (Hint.OFFLOAD, Hint.SMALLER_CONTEXT),
    ),
    (
        PlacementRequest(execution=_MXFP4),
        machine(),
        "execution mxfp4 is not possible. There is no NVIDIA GPU",
        (Hint.CPU,),
    ),
    (
        PlacementRequest(execution=_OFFLOAD),
        machine(gpu(2)),
        "execution offload is not possible. cuda:0 lacks 1.4 GiB",
        (Hint.CPU, Hint.SMALLER_CONTEXT),
    ),
    (
        PlacementRequest(execution=_OFFLOAD),
        machine(gpu(8), triton=False),
        "Triton is not installed",
        (Hint.CPU, Hint.SMALLER_CONTEXT),
    ),
    (
        PlacementRequest(execution=_OFFLOAD),
        machine(gpu(8), ram=4),
        "Host memory lacks 3.6 GiB for the experts",
        (Hint.CPU, Hint.SMALLER_CONTEXT),
    ),
    (
        PlacementRequest(execution=_MXFP4, context_tokens=_FULL),
        machine(gpu(14)),
        "cuda:0 lacks 1.5 GiB",
        (Hint.OFFLOAD, Hint.SMALLER_CONTEXT),
    ),
    (
        PlacementRequest(execution=_OFFLOAD, context_tokens=_FULL),
        machine(gpu(6)),
        "cuda:0 lacks 280 MiB",
        (Hint.CPU, Hint.SMALLER_CONTEXT),
    ),
    (
        PlacementRequest(device="cuda"),
        machine(),
        "device cuda is not possible. There is no NVIDIA GPU",
        (Hint.CPU,),
    ),
    (
        PlacementRequest(device="cuda:1"),
        machine(gpu(8)),
        "device cuda:1 is not possible: cuda:0 is the only GPU",
        (Hint.ANOTHER_DEVICE,),
    ),
    (
        PlacementRequest(device="cuda:2"),
        machine(gpu(8), gpu(8)),
        "the GPUs are cuda:0 to cuda:1",
        (Hint.ANOTHER_DEVICE,),
    ),
    (
        PlacementRequest(device="cuda"),
        machine(gpu(24), cuda=Cuda.NOT_BUILT),
        "is a build without CUDA",
        (Hint.CPU,),
    ),
    (
        PlacementRequest(device="cuda"),
        machine(gpu(2)),
        "device cuda is not possible. cuda:0 lacks 1.4 GiB",
        (Hint.CPU, Hint.SMALLER_CONTEXT),
    ),
    (
        PlacementRequest(device="mps"),
        machine(),
        "device mps is not possible. There is no Apple GPU",
        (Hint.CPU,),
    ),
    (
        PlacementRequest(device="mps"),
        machine(gpu(8)),
        "device mps is not possible. There is no Apple GPU",
        (Hint.CPU,),
    ),
    (
        PlacementRequest(device="cuda"),
        mac(32),
        "device cuda is not possible. There is no NVIDIA GPU",
        (Hint.APPLE_GPU,),
    ),
    (
        PlacementRequest(execution=_OFFLOAD),
        mac(32),
        "execution offload is not possible. Apple GPUs run",
        (Hint.CPU, Hint.SMALLER_CONTEXT),
    ),
    (
        PlacementRequest(execution=_MXFP4),
        mac(16),
        "for all experts and a context",
        (Hint.CPU, Hint.SMALLER_CONTEXT),
    ),
    (
        PlacementRequest(gpu_memory_bytes=30 * GIB),
        mac(32),
        "is 8.7 GiB more than is free on the GPU",
        (Hint.LESS_GPU_MEMORY,),
    ),
    (
        PlacementRequest(gpu_memory_bytes=10 * GIB),
        machine(gpu(8)),
        "10.0 GiB is 2.0 GiB more than is free",
        (Hint.LESS_GPU_MEMORY,),
    ),
    (
        PlacementRequest(device="cpu", context_tokens=_FULL),
        machine(ram=3, available=3),
        "Host memory lacks 1.0 GiB",
        (Hint.FREE_MEMORY, Hint.SMALLER_CONTEXT),
    ),
]


@pytest.mark.parametrize(("request_", "hardware", "message", "hints"), _IMPOSSIBLE)
def test_an_impossible_request_is_an_error_with_the_missing_memory_and_hints(
    request_: PlacementRequest, hardware: Hardware, message: str, hints: tuple[Hint, ...]
) -> None:
    with pytest.raises(ResourceError) as caught:
        choose(_20B, hardware, request_)
    assert message in str(caught.value)
    assert not str(caught.value).endswith(".")
    assert "--" not in str(caught.value)
    assert caught.value.hints == hints


def test_possible_requests_are_satisfied() -> None:
    two = machine(gpu(8), gpu(24))
    assert choose(_20B, two, PlacementRequest(device="cuda:0")).device == "cuda:0"
    assert choose(_20B, two, PlacementRequest(device="cuda:0")).execution is _OFFLOAD
    assert choose(_20B, two, PlacementRequest(execution=_OFFLOAD)).execution is _OFFLOAD
    assert choose(_20B, two, PlacementRequest(device="cpu")).execution is _CPU
    assert choose(_20B, mac(32), PlacementRequest(device="cpu")).execution is _CPU
    assert choose(_20B, mac(32), PlacementRequest(device="mps", execution=_MXFP4)).device == "mps"
    assert choose(_20B, mac(32), PlacementRequest(gpu_memory_bytes=gib(8))).execution is _CPU
    assert choose(_20B, two, PlacementRequest(gpu_memory_bytes=gib(8))).execution is _OFFLOAD
    assert choose(_20B, machine(gpu(12.7)), PlacementRequest(execution=_MXFP4)).context_tokens == 8_960
    longer = choose(_20B, machine(gpu(8)), PlacementRequest(context_tokens=100_000))
    assert (longer.execution, longer.context_tokens) == (_OFFLOAD, 100_000)
    assert longer.gpu_experts < choose(_20B, machine(gpu(8))).gpu_experts


@pytest.mark.parametrize("tokens", [1, _FULL + 1])
def test_a_context_the_model_does_not_have_is_a_usage_error(tokens: int) -> None:
    with pytest.raises(UsageError, match="2 to 131,072 tokens"):
        choose(_20B, machine(), PlacementRequest(context_tokens=tokens))


def test_dense_int8_on_a_gpu_is_ignored_with_a_reason() -> None:
    placement = choose(_20B, machine(gpu(24)), PlacementRequest(dense=Dense.INT8))
    assert (placement.execution, placement.dense) == (_MXFP4, Dense.BF16)
    assert Code.DENSE_ON_GPU in _codes(placement)
    assert Code.DENSE_ON_GPU not in _codes(choose(_20B, machine(), PlacementRequest(dense=Dense.INT8)))


def test_int8_activations_on_a_gpu_are_ignored_with_a_reason() -> None:
    request = PlacementRequest(activations=Activations.INT8)
    assert Code.ACTIVATIONS_ON_GPU in _codes(choose(_20B, machine(gpu(24)), request))
    assert Code.ACTIVATIONS_ON_GPU not in _codes(choose(_20B, machine(), request))


def test_every_sequence_has_a_cache_on_the_cpu() -> None:
    one, five = (choose(_20B, machine(), PlacementRequest(sequences=count)) for count in (1, 5))
    assert (five.sequences, five.context_tokens) == (5, _FULL)
    assert five.host.cache_bytes == 5 * one.host.cache_bytes
    assert Code.SEQUENCES in _codes(five) - _codes(one)
    small = choose(_20B, machine(ram=24), PlacementRequest(sequences=5))
    assert _USUAL <= small.context_tokens < choose(_20B, machine(ram=24)).context_tokens
    assert small.host.used_bytes <= gib(24)


def test_a_gpu_has_one_sequence() -> None:
    one, five = (choose(_20B, machine(gpu(24)), PlacementRequest(sequences=count)) for count in (1, 5))
    assert (five.sequences, five.context_tokens, five.gpu) == (1, one.context_tokens, one.gpu)
    assert _codes(five) - _codes(one) == {Code.ONE_SEQUENCE_ON_GPU}
    assert five.warnings == one.warnings


def test_float32_doubles_the_cache() -> None:
    half, whole = (choose(_20B, machine(), PlacementRequest(dtype=dtype)) for dtype in (Dtype.BFLOAT16, Dtype.FLOAT32))
    assert whole.host.cache_bytes == 2 * half.host.cache_bytes


def test_a_model_shorter_than_usual_gets_all_of_its_context() -> None:
    short = replace(_20B, max_context_tokens=2_000)
    for hardware in (machine(), machine(gpu(8)), machine(gpu(24))):
        assert choose(short, hardware).context_tokens == 2_000


def test_the_decode_bound_follows_from_the_bytes_a_token_reads() -> None:
    on_host, on_gpu = choose(_20B, machine()).bound, choose(_20B, machine(gpu(24))).bound
    assert on_host.host_bytes == on_gpu.gpu_bytes == 3_708_083_328
    assert on_host.tokens_per_second == pytest.approx(51.2e9 / 3_708_083_328)
    split = choose(_20B, machine(gpu(8))).bound
    assert split.gpu_bytes + split.link_bytes == on_gpu.gpu_bytes
    assert on_host.tokens_per_second < split.tokens_per_second < on_gpu.tokens_per_second


def _codes(placement: Placement) -> set[Code]:
    return {reason.code for reason in placement.reasons}


def test_the_table_covers_every_reason() -> None:
    given = set().union(*(_codes(choose(case.config, case.machine)) for case in _CASES.values()))
    assert given | _OF_REQUESTS == set(Code)


@pytest.mark.parametrize(
    ("config", "gibibytes", "terabytes_per_second", "chunk_tokens", "is_smaller"),
    [
        (_20B, 14.7, 0.32, 2_048, False),  # T4, which would take seconds for more
        (_20B, 24, 0.94, 4_096, False),  # 3090
        (_20B, 15.5, 0.94, 2_048, True),
        (_20B, 80, 3.35, 8_192, False),
        (_120B, 80, 3.35, 8_192, False),
        (_120B, 65.5, 3.35, 4_096, True),
        (_120B, 64, 3.35, 2_048, True),
    ],
)
def test_a_gpu_reads_as_large_a_chunk_as_its_speed_and_memory_allow(
    config: ModelConfig, gibibytes: float, terabytes_per_second: float, chunk_tokens: int, is_smaller: bool
) -> None:
    described = replace(gpu(gibibytes), bytes_per_second=terabytes_per_second * 1e12)
    placement = choose(config, machine(described))
    assert placement.execution is _MXFP4
    assert placement.chunk_tokens == chunk_tokens
    assert (Code.SMALLER_CHUNK in _codes(placement)) == is_smaller
    least = choose(config, machine(replace(described, bytes_per_second=1e9)))
    assert (least.context_tokens, least.weights) == (placement.context_tokens, placement.weights)


def test_missing_bytes_are_in_the_json() -> None:
    values = choose(_20B, machine(gpu(3))).to_json()
    (small,) = [reason for reason in values["reasons"] if reason["code"] == "gpu-too-small"]
    needed = model_memory(_20B).dense_bytes + model_memory(_20B).cache_bytes(4_096) + GPU_WORK_BYTES + STAGING_BYTES
    assert small["missing_bytes"] == needed - gib(3)
    assert values["execution"] == "cpu"


def test_memory_that_gpu_and_host_share_counts_once() -> None:
    shared = replace(gpu(60, 45), shares_memory=True)
    described = machine(shared, ram=64, available=45)
    placement = choose(GPT_OSS_20B, described)
    assert placement.execution is Execution.MXFP4
    assert placement.gpu is not None
    assert placement.host.room_bytes is not None
    assert placement.gpu.used_bytes + placement.host.room_bytes == gib(45)
    # What does not fit as the GPU's does not fit beside it as the host's either.
    small = machine(replace(gpu(60, 30), shares_memory=True), ram=64, available=30)
    assert choose(GPT_OSS_120B, small).execution is Execution.CPU
    assert choose(GPT_OSS_120B, machine(gpu(30), ram=64, available=60)).execution is Execution.OFFLOAD


def test_the_bandwidth_that_the_driver_reports_is_assumed() -> None:
    known = machine(replace(gpu(24), bytes_per_second=936e9))
    assert choose(GPT_OSS_20B, known).bound.gpu_bytes_per_second == 936e9
    shared = machine(replace(gpu(60), shares_memory=True))
    assert choose(GPT_OSS_20B, shared).bound.gpu_bytes_per_second == 256e9
    assert choose(GPT_OSS_20B, machine(gpu(141))).bound.gpu_bytes_per_second == 4_800e9


def test_an_amd_gpu_is_used_and_said_to_be_untested() -> None:
    described = machine(replace(gpu(24), capability=None, architecture="gfx1100"), rocm="7.1")
    placement = choose(GPT_OSS_20B, described)
    assert (placement.execution, placement.kernels) == (Execution.MXFP4, KernelSet.TRITON)
    (reason,) = placement.warnings
    assert reason.code is Code.ROCM_UNTESTED
    assert "untested" in reason.text
