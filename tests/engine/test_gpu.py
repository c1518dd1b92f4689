"""Tests that need a GPU: the real shapes, CUDA graphs, experts in both memories, and a full GPU."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from gptoss_cli.engine.expert_offload import packed_only, place_single
from gptoss_cli.engine.generator import Generator
from gptoss_cli.engine.kernels import reference
from gptoss_cli.engine.kernels.cuda import CudaKernels
from gptoss_cli.engine.kv_cache import FullLayer, SlidingLayer
from gptoss_cli.engine.steppers import OverlappedStepper
from gptoss_cli.engine.weights import MlpWeights
from gptoss_cli.errors import Hint, ResourceError
from gptoss_cli.generation import Allowed, Forced, Sampling, TokenConstraint, TokenInfo
from tests.engine.checkpoints import FULL, SLIDING, Shape, write_checkpoint
from tests.engine.kernels.random_weights import assert_close, on_device, random_attention, random_mlp, random_of
from tests.engine.open_generator import on_gpu, open_generator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU"),
]
SHAPE = Shape(layer_types=(SLIDING, FULL, SLIDING, FULL))
EXPERTS = SHAPE.experts * 4
PROMPT = [3, 17, 8, 29, 11, 40, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("gpu"), SHAPE, seed=4)


def _open(folder: Path, experts: int = EXPERTS, context_tokens: int = 400) -> Generator:
    return open_generator(folder, context_tokens=context_tokens, **on_gpu("cuda:0", experts))


def _plain(generator: Generator) -> Generator:
    """Return a generator over the same model that is not overlapped."""
    return Generator(generator.model, context_tokens=generator.context_tokens, chunk_tokens=2048)


def _without_graphs(generator: Generator) -> Generator:
    generator.model.use_cuda_graph = False
    return _plain(generator)


def _decoded(generator: Generator, tokens: int, constraint: TokenConstraint | None = None, seed: int = 3) -> list[int]:
    list(generator.prefill(PROMPT))
    new = generator.decode(Sampling(seed=seed), stop_ids=(), banned_ids=(), max_tokens=tokens, constraint=constraint)
    return list(new)


def _both_ways(weights: MlpWeights, resident: int) -> tuple[MlpWeights, MlpWeights]:
    """The weights on the GPU for the reference, and for the kernels with so many experts there."""
    gate_up, down, device = packed_only(weights.gate_up), packed_only(weights.down), torch.device("cuda")
    plain = on_device(weights, device)
    return plain, MlpWeights(plain.norm, plain.router, *place_single(gate_up, down, device, resident))


@pytest.mark.parametrize("resident", [0, 3, 6])
def test_experts_of_the_real_shape_equal_the_reference(resident: int) -> None:
    plain, placed = _both_ways(random_mlp(2_880, 2_880, 6), resident)
    for tokens in (1, 5):
        x = random_of(tokens, 2_880, seed=5).cuda()
        routed = reference.route(x, plain, active=4, eps=1e-5)
        right = reference.mix_experts(x, routed, plain, limit=7.0, dtype=torch.float32)
        got = CudaKernels().mix_experts(x, routed, placed, limit=7.0, dtype=torch.float32)
        assert_close(got, right, 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_experts_of_the_real_shape_equal_the_reference(dtype: torch.dtype) -> None:
    plain, placed = _both_ways(random_mlp(2_880, 2_880, 8), 8)
    for tokens in (3, 40, 700):
        x = random_of(tokens, 2_880, seed=5).cuda()
        routed = reference.route(x, plain, active=4, eps=1e-5)
        right = reference.mix_experts(x, routed, plain, limit=7.0, dtype=torch.float32)
        got = CudaKernels().mix_experts(x, routed, placed, limit=7.0, dtype=dtype)
        assert_close(got, right, 1e-4 if dtype is torch.float32 else 2e-2)


def test_dense_products_of_the_real_shape_equal_the_reference() -> None:
    weights, kernels = on_device(random_attention(2_880, 64, 8, 64), "cuda"), CudaKernels()
    x, attended = random_of(1, 2_880, seed=5).cuda(), random_of(1, 4_096, seed=7).cuda()
    expected = reference.project_qkv(x, weights, eps=1e-5, dtype=torch.float32)
    for got, right in zip(kernels.project_qkv(x, weights, eps=1e-5, dtype=torch.float32), expected, strict=True):
        assert_close(got, right, 1e-4)
    right = reference.project_output(x, attended, weights, dtype=torch.float32)
    assert_close(kernels.project_output(x, attended, weights, dtype=torch.float32), right, 1e-4)
    unembedding = random_of(201_088, 2_880, seed=8).bfloat16().cuda()
    right = reference.unembed(x, weights.norm, unembedding, eps=1e-5, dtype=torch.float32)
    assert_close(kernels.unembed(x, weights.norm, unembedding, eps=1e-5, dtype=torch.float32), right, 1e-4)


@pytest.mark.parametrize("experts", [32, 128])
def test_the_router_of_the_real_shape_chooses_like_the_reference(experts: int) -> None:
    plain, placed = _both_ways(random_mlp(2_880, 32, experts), experts)
    x = random_of(1, 2_880, seed=5).cuda()
    normed, chosen, expert_weights = reference.route(x, plain, active=4, eps=1e-5)
    got_normed, got_chosen, got_weights = CudaKernels().route(x, placed, active=4, eps=1e-5)
    assert_close(got_normed, normed, 1e-4)
    assert got_chosen.tolist() == chosen.tolist()
    assert_close(got_weights, expert_weights, 1e-4)


@pytest.mark.parametrize("window", [None, 128])
@pytest.mark.parametrize("known", [0, 500, 5_000])
def test_attention_of_several_tokens_of_the_real_shape_equals_the_reference(window: int | None, known: int) -> None:
    weights, kernels, tokens = on_device(random_attention(2_880, 64, 8, 64), "cuda"), CudaKernels(), 300
    position = torch.zeros(1, dtype=torch.int32, device="cuda")
    angles = torch.arange(known, known + tokens, device="cuda").unsqueeze(1) * torch.linspace(1, 1e-5, 32).cuda()
    before = [torch.randn(known, 8, 64, device="cuda").bfloat16() for _ in range(2)]
    qkv = tuple(torch.randn(tokens, size, device="cuda") for size in (4_096, 512, 512))
    results = []
    for attend in (kernels.attend, reference.attend):
        layer: FullLayer | SlidingLayer
        if window is None:
            layer = FullLayer(8, 64, context_tokens=6_000, dtype=torch.bfloat16, position=position)
        else:
            layer = SlidingLayer(8, 64, window=window, dtype=torch.bfloat16, position=position)
        if known:
            layer.append(before[0], before[1], 0)
        rotation = angles.cos(), angles.sin()
        results.append(attend((qkv[0], qkv[1], qkv[2]), rotation, weights.sinks, layer, position=known))
    assert_close(results[0], results[1], 2e-2)


def test_attention_of_the_real_shape_equals_the_reference() -> None:
    weights, kernels = on_device(random_attention(2_880, 64, 8, 64), "cuda"), CudaKernels()
    position = torch.zeros(1, dtype=torch.int32, device="cuda")
    for window in (None, 128):
        layers = [
            FullLayer(8, 64, context_tokens=70_000, dtype=torch.bfloat16, position=position)
            if window is None
            else SlidingLayer(8, 64, window=window, dtype=torch.bfloat16, position=position)
            for _ in range(2)
        ]
        for known in (1, 130, 9_000, 65_536):
            angles = torch.arange(known + 1, device="cuda").unsqueeze(1) * torch.linspace(1, 1e-5, 32, device="cuda")
            rotation = angles.cos(), angles.sin()
            qkv = tuple(torch.randn(known + 1, size, device="cuda") for size in (4_096, 512, 512))
            before, last = [part[:known] for part in qkv], [part[known:] for part in qkv]
            for layer in layers:
                keys, values = (part.view(known, 8, 64).bfloat16() for part in before[1:])
                layer.append(keys, values, 0)
            position.fill_(known)
            turned = rotation[0][known:], rotation[1][known:]
            arguments = (last[0], last[1], last[2]), turned, weights.sinks
            right = reference.attend(*arguments, layers[0], position=known)
            assert_close(kernels.attend(*arguments, layers[1], position=known), right, 1e-3)


@pytest.mark.parametrize("experts", [0, EXPERTS // 2, EXPERTS])
def test_a_cuda_graph_gives_the_ids_of_single_operations(folder: Path, experts: int) -> None:
    graph, single = _open(folder, experts), _without_graphs(_open(folder, experts))
    assert _decoded(graph, 200) == _decoded(single, 200)


class _Changing:
    """Forces some ids or restricts the draw every few tokens."""

    def __init__(self) -> None:
        self.asked = 0
        self.few = Allowed(frozenset(range(5, 60)))

    def next(self) -> Forced | Allowed | None:
        self.asked += 1
        if self.asked % 7 == 0:
            return Forced((4, 9, 2))
        return self.few if self.asked % 3 == 0 else None


def test_restrictions_and_forced_ids_give_the_ids_of_single_operations(folder: Path) -> None:
    graph, single = _open(folder), _without_graphs(_open(folder))
    assert _decoded(graph, 90, _Changing()) == _decoded(single, 90, _Changing())


@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, {"top_p": 0.7, "top_k": 50}, {"top_p": 0.9}])
def test_draws_in_a_cuda_graph_give_the_ids_of_plain_ones(folder: Path, settings: dict[str, float]) -> None:
    overlapped = _open(folder)
    assert isinstance(overlapped.stepper, OverlappedStepper)
    answers = []
    for generator in (overlapped, _plain(_open(folder))):
        list(generator.prefill(PROMPT))
        sampling = Sampling(seed=8, **settings)  # type: ignore[arg-type]
        answers.append(list(generator.decode(sampling, stop_ids=(), banned_ids={4, 5}, max_tokens=200)))
    assert answers[0] == answers[1]


def test_a_decode_closed_between_tokens_can_be_repeated(folder: Path) -> None:
    generator = _open(folder)
    whole = _decoded(generator, 40)
    list(generator.prefill(PROMPT))
    new = generator.decode(Sampling(seed=3), stop_ids=(), banned_ids=(), max_tokens=40)
    some = [next(new) for _ in range(11)]
    new.close()  # type: ignore[attr-defined]
    assert some == whole[:11]
    assert _decoded(generator, 40) == whole


def test_a_full_context_ends_the_sequence(folder: Path) -> None:
    generator = _open(folder, context_tokens=32)
    assert len(_decoded(generator, 100)) == 32 - len(PROMPT)


def test_a_full_gpu_is_a_resource_error(folder: Path) -> None:
    free, _ = torch.cuda.mem_get_info()
    occupied = torch.empty(max(0, free - (64 << 20)), dtype=torch.uint8, device="cuda")
    try:
        with pytest.raises(ResourceError) as raised:
            open_generator(folder, context_tokens=4_000, **on_gpu("cuda:0", EXPERTS)).logits(PROMPT * 500)
        assert Hint.CPU in raised.value.hints
    finally:
        del occupied
        torch.cuda.empty_cache()


@pytest.mark.parametrize("experts", [EXPERTS, EXPERTS // 2])
def test_an_observer_changes_no_id_on_a_gpu(folder: Path, experts: int) -> None:
    generator = _open(folder, experts)
    before = _decoded(generator, 30)
    seen: list[TokenInfo] = []
    list(generator.prefill(PROMPT))
    observed = generator.decode(Sampling(seed=3), stop_ids=(), banned_ids=(), max_tokens=30, observer=seen.append)
    assert list(observed) == before == [info.id for info in seen]
    assert all(info.experts is not None and len(info.experts) == 4 for info in seen[1:])
    assert _decoded(generator, 30) == before
