"""Start-up, prefill, decode and promotions of a GPU, on fake CUDA tensors that refuse what a GPU would refuse."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from gptoss_cli.engine import benchmark, pinned_memory
from gptoss_cli.engine.benchmark import Work, measure
from gptoss_cli.engine.cuda_graph import CudaGraph
from gptoss_cli.engine.expert_offload import Residency, SlotTables, _SplitTensor
from gptoss_cli.engine.generator import Generator
from gptoss_cli.engine.kernels import triton_decode, triton_experts, triton_sampling
from gptoss_cli.engine.kernels.cuda import CudaKernels
from gptoss_cli.engine.kernels.tuning import tuning_for
from gptoss_cli.engine.loader import load_random
from gptoss_cli.engine.steppers import OverlappedStepper
from gptoss_cli.errors import Hint, ResourceError
from gptoss_cli.generation import Allowed, Banned, Forced, Restriction, Sampling, TokenConstraint
from gptoss_cli.placement.memory import model_memory
from gptoss_cli.placement.model_config import published_config
from gptoss_cli.placement.placement import Placement
from gptoss_cli.settings import Dtype
from tests.engine import fake_cuda as fake_cuda_module
from tests.engine.checkpoints import FULL, SLIDING, Shape, write_checkpoint
from tests.engine.fake_cuda import HOST_OFFSET, CaptureError, FakeCuda, fake_cuda
from tests.engine.kernels import compile_kernels, test_cuda
from tests.engine.open_generator import on_gpu, open_generator

SHAPE = Shape(layer_types=(SLIDING, FULL))
EXPERTS = SHAPE.experts * 2
CAPABILITIES = [(7, 5), (8, 0), (9, 0), (10, 0), (12, 0)]
# Prompts with few, some and many tokens for each expert; divisible by 16 or not.
LENGTHS = [16, 33, 97, 144]
SETTINGS = [Sampling(3, temperature=0), Sampling(3), Sampling(3, temperature=0.7, top_p=0.8, top_k=20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("fake"), SHAPE)


@pytest.fixture
def gpu() -> Iterator[FakeCuda]:
    with fake_cuda() as gpu:
        yield gpu


def _open(
    folder: Path,
    experts: int = EXPERTS,
    *,
    embedding: bool = True,
    progress: Callable[[str], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> Generator:
    placement = on_gpu("cuda:0", experts, embedding=embedding)
    return open_generator(folder, context_tokens=2_000, progress=progress, notice=notice, **placement)


def _prefill(generator: Generator, tokens: int) -> None:
    list(generator.prefill([tokens % 300, *range(tokens - 1)]))  # has no prefix in common with the last one


def _decode(
    generator: Generator,
    tokens: int,
    sampling: Sampling = SETTINGS[0],
    constraint: TokenConstraint | None = None,
) -> list[int]:
    return list(generator.decode(sampling, stop_ids=(), banned_ids={1, 2}, max_tokens=tokens, constraint=constraint))


class _CyclicConstraint:
    """Goes through all kinds of rules, one for each draw."""

    def __init__(self) -> None:
        self._turn = 0
        self._rules = None, Allowed(frozenset({0, 5})), None, Banned(frozenset({7})), Forced((5, 6)), None

    def next(self) -> Forced | Restriction | None:
        self._turn += 1
        return self._rules[self._turn % len(self._rules)]


@pytest.mark.parametrize(
    ("capability", "dtype"), [*((each, Dtype.BFLOAT16) for each in CAPABILITIES), ((9, 0), Dtype.FLOAT32)]
)
def test_a_model_wholly_on_the_gpu_loads_on_every_architecture(
    folder: Path, capability: tuple[int, int], dtype: Dtype
) -> None:
    with fake_cuda(capability):
        generator = open_generator(folder, dtype=dtype, context_tokens=90, **on_gpu("cuda:0", EXPERTS))
        assert isinstance(generator.stepper, OverlappedStepper)
        _prefill(generator, 20)
        assert len(_decode(generator, 5)) == 5


@pytest.mark.parametrize(
    ("experts", "embedding", "sampling"),
    [
        *((EXPERTS, True, sampling) for sampling in SETTINGS),
        (EXPERTS, False, SETTINGS[2]),
        (EXPERTS // 2 + 1, True, SETTINGS[1]),
        (0, False, SETTINGS[2]),
    ],
)
def test_a_conversation_works_with_experts_in_any_memory(
    folder: Path, gpu: FakeCuda, experts: int, embedding: bool, sampling: Sampling
) -> None:
    generator = _open(folder, experts, embedding=embedding)
    for tokens in (30, 9):
        _prefill(generator, tokens)
        assert len(_decode(generator, 14, sampling, _CyclicConstraint())) == 14
    assert generator.logits([3, 4]).shape == (2, SHAPE.vocabulary)
    assert sum(gate_up.slots.count for gate_up, _ in generator.model.weights.placed_experts()) == experts
    assert isinstance(generator.stepper, OverlappedStepper)
    assert (generator.expert_hit_rate is None) == (experts == EXPERTS)


def test_a_whole_step_is_captured_and_then_replayed(folder: Path, gpu: FakeCuda) -> None:
    generator = _open(folder)
    _prefill(generator, 7)
    before = len(gpu.launches)
    _decode(generator, 2, SETTINGS[1])
    step = [launch for launch in gpu.launches[before:] if launch.captured]
    # A short context is attended in one part by both kinds of layers; the window of this model is short.
    modules = triton_decode, triton_experts, triton_sampling
    kernels = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    assert {launch.name for launch in step} == kernels - {"pack_kernel"}  # for which the router does the work
    launched, replayed = len(gpu.launches), gpu.replays
    assert len(_decode(generator, 30, SETTINGS[1])) == 30
    assert len(gpu.launches) == launched
    assert gpu.replays == replayed + 30


@pytest.mark.parametrize(("experts", "embedding"), [(EXPERTS, True), (EXPERTS, False), (EXPERTS // 2, False)])
def test_decode_does_not_wait_for_the_gpu(folder: Path, gpu: FakeCuda, experts: int, embedding: bool) -> None:
    generator = _open(folder, experts, embedding=embedding)
    _prefill(generator, 7)
    _decode(generator, 2)
    before = gpu.reads.copy()
    _decode(generator, 30)
    assert gpu.reads - before == {"item": 1}  # the first id, which is drawn from the logits of the prefill


def test_prefill_with_all_weights_on_the_gpu_does_not_wait_for_it(folder: Path, gpu: FakeCuda) -> None:
    generator = _open(folder)
    before = gpu.reads.copy()
    for tokens in LENGTHS:
        _prefill(generator, tokens)
    assert gpu.reads == before


def test_prefill_of_offloaded_layers_looks_at_the_slots_once(folder: Path, gpu: FakeCuda) -> None:
    generator = _open(folder, EXPERTS // 2, embedding=False)
    before = gpu.reads.copy()
    for tokens in LENGTHS:
        _prefill(generator, tokens)
    assert gpu.reads - before == {"tolist": len(LENGTHS)}


@pytest.mark.parametrize("experts", [0, EXPERTS - 1, EXPERTS])
def test_nothing_is_compiled_after_the_start(folder: Path, gpu: FakeCuda, experts: int) -> None:
    shown: list[str] = []
    generator = _open(folder, experts, progress=shown.append)
    ready = gpu.compiled_variants()
    for tokens, sampling in zip(LENGTHS, [*SETTINGS, SETTINGS[0]], strict=True):
        _prefill(generator, tokens)
        _decode(generator, 3, sampling, _CyclicConstraint())
    generator.model.forward([5], generator.model.new_cache(300), routing=[])  # as an observer of the experts does
    for length in (1, 2, 40):
        generator.logits(list(range(length)))
    assert gpu.variants() <= ready
    sizes = {dict(variant[2])["TOKENS"] for variant in ready if variant[0].startswith("grouped")}
    assert sizes == set(tuning_for((9, 0)).prefill.tokens)
    assert shown[-1] == "Checking the GPU's kernels"


@pytest.mark.parametrize(("context_tokens", "dtype"), [(2, Dtype.BFLOAT16), (90, Dtype.FLOAT32)])
def test_nothing_is_compiled_after_the_start_with_a_short_context(
    folder: Path, gpu: FakeCuda, context_tokens: int, dtype: Dtype
) -> None:
    generator = open_generator(folder, dtype=dtype, context_tokens=context_tokens, **on_gpu("cuda:0", EXPERTS))
    ready, checked = gpu.compiled_variants(), len(gpu.launches)
    _prefill(generator, context_tokens - 1)
    _decode(generator, 1)
    generator.logits([1] * context_tokens)
    assert {launch.variant for launch in gpu.launches[checked:]} <= ready


@pytest.mark.parametrize(("experts", "tokens"), [(32, 2_048), (128, 8_192)])
def test_a_prompt_needs_the_memory_that_its_placement_plans(gpu: FakeCuda, experts: int, tokens: int) -> None:
    config = published_config(layers=2, experts=experts)
    placement = Placement(context_tokens=tokens + 1, chunk_tokens=tokens, **on_gpu("cuda:0", 2 * experts))
    generator = load_random(config, placement)
    gpu.most_bytes = before = gpu.used_bytes
    _prefill(generator, tokens)
    planned = model_memory(config).chunk_token_bytes * tokens
    assert gpu.most_bytes - before == pytest.approx(planned / 1.2, rel=0.01)


def test_a_benchmark_measures_the_gpu_by_its_own_clock(folder: Path, gpu: FakeCuda) -> None:
    generator = _open(folder)
    work = Work(context_tokens=40, prompt_tokens=16, generated_tokens=4, repetitions=2, operations=True)
    measured = measure(generator, work, progress=lambda line: None)
    # Half of what is free, at most 2 GiB, in an eighth of the millisecond between two events.
    assert measured.bandwidth.median == pytest.approx((2 << 30) * 8 / 1e-3)
    assert measured.gpu_bytes == 1 << 30
    assert measured.operations is not None
    assert {operation.seconds for operation in measured.operations} == {1e-3}


def test_a_gpu_filled_to_plan_fails_a_benchmark_in_one_line(
    folder: Path, gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    generator = _open(folder)
    monkeypatch.setattr(benchmark, "_buffer", full)
    work = Work(prompt_tokens=16, generated_tokens=4, repetitions=2, operations=False)
    with pytest.raises(ResourceError, match="out of memory"):
        measure(generator, work, progress=lambda line: None)


def test_a_capture_minds_neither_other_threads_nor_garbage(gpu: FakeCuda) -> None:
    seen = []

    def compute(x: torch.Tensor) -> torch.Tensor:
        seen.append((gpu.capturing, gc.isenabled()))
        return x

    CudaGraph(compute, [torch.zeros(1, device="cuda:0")])
    assert seen == [(False, True), (True, False)]
    assert gc.isenabled()
    assert gpu.capture_modes == {"thread_local"}


def test_a_failed_pinning_says_what_to_change_and_leaves_no_error_behind(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[torch.device] = []
    monkeypatch.setattr(fake_cuda_module._Runtime, "cudaHostRegister", staticmethod(lambda *arguments: 2))
    monkeypatch.setattr(pinned_memory, "_forget_last_error", forgotten.append)
    with pytest.raises(ResourceError, match=r"Pinning 0\.0 GiB of host memory failed: there is not enough") as raised:
        pinned_memory.pinned(torch.zeros(3, dtype=torch.uint8), torch.device("cuda:0"))
    assert raised.value.hints == (Hint.FREE_MEMORY, Hint.CPU)
    assert forgotten == [torch.device("cuda:0")]


def test_without_enough_memory_to_pin_all_experts_those_of_the_gpu_are_not_pinned(
    folder: Path, gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [2]

    def register(*arguments: object) -> int:
        return failures.pop() if failures else 0

    monkeypatch.setattr(fake_cuda_module._Runtime, "cudaHostRegister", staticmethod(register))
    notices = list[str]()
    generator = _open(folder, EXPERTS // 2, embedding=False, notice=notices.append)
    slots = [gate_up.slots for gate_up, _ in generator.model.weights.placed_experts()]
    assert not failures
    assert notices == [
        "Pinning 0.0 GiB of host memory failed: there is not enough memory. "
        "So the GPU always holds the same experts, and decodes more slowly"
    ]
    assert [(each.residency, each.first_on_host) for each in slots] == [(Residency.FIXED, 3)] * 2
    _prefill(generator, LENGTHS[0])
    assert len(_decode(generator, 4)) == 4


def test_random_weights_that_cannot_be_pinned_are_noticed_too(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    failures, notices = [2], list[str]()
    register = staticmethod(lambda *arguments: failures.pop() if failures else 0)
    monkeypatch.setattr(fake_cuda_module._Runtime, "cudaHostRegister", register)
    placement = Placement(context_tokens=64, **on_gpu("cuda:0", 4, embedding=False))
    load_random(published_config(layers=2, experts=8), placement, notice=notices.append)
    assert len(notices) == 1
    assert "always holds the same experts" in notices[0]


def test_an_embedding_that_cannot_be_pinned_is_an_error_and_no_matter_of_experts(
    folder: Path, gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_cuda_module._Runtime, "cudaHostRegister", staticmethod(lambda *arguments: 2))
    notices = list[str]()
    with pytest.raises(ResourceError, match=r"^Pinning 0\.0 GiB of host memory failed"):
        _open(folder, EXPERTS, embedding=False, notice=notices.append)
    assert notices == []


def test_query_key_and_value_lie_together_on_the_gpu(folder: Path, gpu: FakeCuda) -> None:
    for layer in _open(folder).model.weights.layers:
        joined, attention = layer.attention.joined_qkv, layer.attention
        assert joined is not None
        assert len(joined.bias) == len(attention.query.bias) + 2 * len(attention.key.bias)


def test_all_experts_are_copied_on_one_stream(folder: Path, gpu: FakeCuda) -> None:
    generator = _open(folder, 0)
    _prefill(generator, LENGTHS[-1])
    before = gpu.streams
    for tokens in LENGTHS:
        _prefill(generator, tokens)
    assert gpu.streams == before


def test_kernels_are_launched_as_the_machine_code_test_compiles_them(folder: Path, gpu: FakeCuda) -> None:
    generator = _open(folder, embedding=False)
    _prefill(generator, 150)
    tuning = tuning_for((9, 0))
    of_one, of_prefill = compile_kernels.constants(tuning), compile_kernels.prefill_constants(tuning.prefill, 16)
    seen = set()
    for launch in gpu.launches:
        seen.add(launch.name)
        stages = dict[str, int]()
        if launch.name in of_one:
            expected, warps = of_one, compile_kernels.warps(launch.name, tuning)
            kinds = compile_kernels.kinds(launch.name)
        else:
            expected, warps = of_prefill, compile_kernels.prefill_warps(launch.name, tuning.prefill)
            kinds = compile_kernels.kinds(prefill=tuning.prefill)
            stages = {"num_stages": tuning.prefill.stages} if launch.name.startswith("grouped") else {}
        assert launch.constants.keys() == expected[launch.name].keys()
        tuned = {"ROWS", "KEYS", "BYTES", "PAIRS", "PTX", "PDL", "UPCAST"} & launch.constants.keys()
        assert {name: launch.constants[name] for name in tuned} == {name: expected[launch.name][name] for name in tuned}
        assert launch.kinds == {name: compile_kernels.kind(name, kinds) for name in launch.kinds}
        options = {"num_warps": warps, "enable_fp_fusion": True, **stages}
        assert launch.options == options | ({"launch_pdl": True} if launch.constants.get("PDL") else {}), launch.name
    assert seen == {*of_one, *of_prefill}


def test_kernels_get_the_gpus_address_of_pinned_memory(gpu: FakeCuda) -> None:
    device, whole = torch.device("cuda:0"), torch.zeros(7, 6, 3, 16, dtype=torch.uint8)
    for residency, first in ((Residency.RECENT, 0), (Residency.FIXED, 3)):
        slots = SlotTables(1, 7, device).layer(0, 3, residency)
        for unit in (16, 1):
            split = _SplitTensor(whole, device, slots, unit=unit)
            assert split.base.is_cuda
            for expert in range(first, 7):
                on_host = split.on_host(expert)
                assert not on_host.is_cuda
                found = split.base.data_ptr() + unit * (split.host_offset + expert * split.stride)
                assert found == on_host.data_ptr() + HOST_OFFSET
    rows = pinned_memory.pinned_rows(torch.zeros(5, 3, dtype=torch.bfloat16), device)
    assert rows.base.data_ptr() + 2 * rows.offset == rows.host.data_ptr() + HOST_OFFSET


def _pack(*tensors: torch.Tensor) -> None:
    more = [tensors[-1]] * (7 if len(tensors) > 1 else 5)
    constants = {"E": 3, "A": 2, "E_WIDTH": 4, "A_WIDTH": 2, "K": 32, "WIDTH": 4, "PAIRS": True, "OFFLOADED": True}
    triton_experts.pack_kernel[(1,)](tensors[0], *more, replaceable=3, **constants, num_warps=1)


def test_what_a_gpu_would_refuse_is_refused(gpu: FakeCuda) -> None:
    here, there = torch.zeros(4), torch.zeros(4, device="cuda:0")
    with pytest.raises(RuntimeError, match="device"):
        there.index_fill(0, torch.tensor([1]), 2.0)
    with pytest.raises(RuntimeError, match="same device"):
        here + there
    with pytest.raises(AssertionError, match="normed is in host memory"):
        _pack(here, there)
    with pytest.raises(TypeError, match="missing a required argument"):
        _pack(there)


_WAITS: list[Callable[[torch.Tensor], object]] = [
    lambda x: x[0].item(),
    lambda x: int(x[0]),
    lambda x: bool(x[0] > 0),
    lambda x: x.tolist(),
    lambda x: x.cpu(),
    lambda x: x.nonzero(),
    lambda x: x[x > 0],
    lambda x: x + torch.tensor([1, 2, 3, 4], device="cuda:0"),
    lambda x: x.copy_(torch.zeros(4)),
    lambda x: x[torch.tensor([1, 2])],
    lambda _: torch.cuda.synchronize(),
]


@pytest.mark.parametrize("wait", _WAITS)
def test_nothing_waits_for_the_host_in_a_capture(gpu: FakeCuda, wait: Callable[[torch.Tensor], object]) -> None:
    x = torch.zeros(4, device="cuda:0")
    with torch.cuda.graph(torch.cuda.CUDAGraph()), pytest.raises(CaptureError):
        wait(x)


def test_the_kernel_tests_put_everything_on_the_gpu(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_cuda, "DEVICE", torch.device("cuda:0"))
    monkeypatch.setattr(test_cuda, "assert_close", lambda got, expected, tolerance: got - expected)
    kernels = CudaKernels(test_cuda.SMALL)
    test_cuda.test_dense_products_equal_the_reference(kernels, 36)
    for kind in ("full", "sliding"):
        test_cuda.test_attention_of_one_token_equals_the_reference(kernels, kind, torch.bfloat16, 5)
    test_cuda.test_experts_of_one_token_equal_the_reference(kernels, 5, 3, 96, 64, 0.5)
    assert {launch.name for launch in gpu.launches} >= {"qkv_kernel", "attend_kernel", "down_kernel"}
