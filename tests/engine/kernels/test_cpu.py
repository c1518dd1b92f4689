"""The native kernels equal the reference: with float32 activations up to rounding, with int16 within 2e-4."""

import math
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_cli.engine.expert_offload import PackedExperts, packed_only
from gptoss_cli.engine.kernels import cpu as cpu_module
from gptoss_cli.engine.kernels import reference
from gptoss_cli.engine.kernels.cpu import CpuKernels
from gptoss_cli.engine.kernels.native_library import Native, check_instructions
from gptoss_cli.engine.kernels.protocol import Kernels
from gptoss_cli.engine.kv_cache import FullLayer, KVCache, LayerCache, SlidingLayer
from gptoss_cli.engine.quantize import quantize
from gptoss_cli.engine.weights import AttentionWeights, Int8Matrix, LayerWeights, MlpWeights
from gptoss_cli.errors import UsageError
from gptoss_cli.placement.model_config import SWIGLU_ALPHA, LayerKind, published_config
from gptoss_cli.settings import Activations
from tests.engine.checkpoints import Array
from tests.engine.kernels.random_weights import assert_close, random_attention, random_linear, random_mlp, random_of
from tests.engine.kernels.test_reference import numpy_dequantized

_X86 = platform.machine().lower() in ("x86_64", "amd64")
INSTRUCTIONS = ["scalar", *(["avx2", "avx512", "avx512bf16"] if _X86 else ["neon", "dotprod", "i8mm"])]
# Tolerances relative to the largest value, for float32 activations, and for int16 and int8 with a scale per 32.
EXACT, INT16, INT8 = 3e-6, 2e-4, 3e-2
COLUMNS = [32, 96, 224, 288, 2880, 4096]
TOKENS = [1, 2, 3, 4, 5, 9, 13]

real_columns = pytest.mark.parametrize("columns", COLUMNS)
real_tokens = pytest.mark.parametrize("tokens", TOKENS)


@pytest.fixture(params=INSTRUCTIONS)
def cpu(request: pytest.FixtureRequest, cpu_kernels: CpuKernels) -> Iterator[CpuKernels]:
    """The kernels with each instruction set that this machine has."""
    if not cpu_kernels.native.select(request.param):
        pytest.skip(f"this machine has no {request.param}")
    yield cpu_kernels
    cpu_kernels.native.select("")


def test_cpu_kernels_have_every_operation(cpu_kernels: CpuKernels) -> None:
    kernels: Kernels = cpu_kernels
    assert callable(kernels.embed)


@real_tokens
@real_columns
def test_dense_products_with_norm_equal_the_reference(cpu: CpuKernels, columns: int, tokens: int) -> None:
    weights = AttentionWeights(
        norm=random_of(columns, seed=9).bfloat16(),
        query=random_linear(47, columns, seed=1),
        key=random_linear(6, columns, seed=2),
        value=random_linear(33, columns, seed=3),
        output=random_linear(1, 1),
        sinks=torch.empty(0),
    )
    x = random_of(tokens, columns, seed=5)
    got = cpu.project_qkv(x, weights, eps=1e-5, dtype=torch.float32)
    for part, expected in zip(got, reference.project_qkv(x, weights, eps=1e-5, dtype=torch.float32), strict=True):
        assert_close(part, expected, EXACT)


@pytest.mark.parametrize("columns", [22, 308, 360])
@pytest.mark.parametrize("tokens", [1, 3, 9])
def test_the_number_of_columns_can_be_any_number(cpu: CpuKernels, columns: int, tokens: int) -> None:
    unused, output = random_linear(1, 1), random_linear(37, columns)
    weights = AttentionWeights(torch.empty(0), unused, unused, unused, output, torch.empty(0))
    x, attended = random_of(tokens, 37), random_of(tokens, columns, seed=1)
    got = cpu.project_output(x, attended, weights, dtype=torch.float32)
    assert_close(got, reference.project_output(x, attended, weights, dtype=torch.float32), EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@real_tokens
@pytest.mark.parametrize(("hidden", "intermediate"), [(96, 160), (224, 96), (288, 32)])
def test_experts_equal_the_reference(
    cpu: CpuKernels, hidden: int, intermediate: int, tokens: int, dtype: torch.dtype
) -> None:
    weights = random_mlp(hidden, intermediate)
    x = random_of(tokens, hidden, seed=5)
    routed = reference.route(x, weights, active=2, eps=1e-5)
    got = cpu.mix_experts(x, routed, weights, limit=1.75, dtype=dtype)
    expected = reference.mix_experts(x, routed, weights, limit=1.75, dtype=torch.float32)
    assert_close(got, expected, EXACT if dtype is torch.float32 else INT16)


@real_tokens
@pytest.mark.parametrize(("hidden", "intermediate"), [(96, 160), (288, 32), (2880, 96)])
def test_experts_by_int8_activations_are_close_to_the_reference(
    cpu: CpuKernels, hidden: int, intermediate: int, tokens: int
) -> None:
    weights = random_mlp(hidden, intermediate)
    x = random_of(tokens, hidden, seed=5)
    routed = reference.route(x, weights, active=2, eps=1e-5)
    kernels = CpuKernels(cpu.native, Activations.INT8)
    got = kernels.mix_experts(x, routed, weights, limit=1.75, dtype=torch.bfloat16)
    expected = reference.mix_experts(x, routed, weights, limit=1.75, dtype=torch.float32)
    assert_close(got, expected, INT8)
    finer = cpu.mix_experts(x, routed, weights, limit=1.75, dtype=torch.bfloat16)
    assert (finer - expected).abs().max() < (got - expected).abs().max()


@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize("columns", [2880, 4096])
def test_experts_of_the_real_width_equal_the_reference(cpu: CpuKernels, columns: int, tokens: int) -> None:
    weights = random_mlp(columns, 32)
    x = random_of(tokens, columns, seed=5)
    routed = reference.route(x, weights, active=2, eps=1e-5)
    got = cpu.mix_experts(x, routed, weights, limit=7.0, dtype=torch.bfloat16)
    assert_close(got, reference.mix_experts(x, routed, weights, limit=7.0, dtype=torch.float32), INT16)


@real_tokens
def test_routing_equals_the_reference(cpu: CpuKernels, tokens: int) -> None:
    weights, x = random_mlp(96, 32, experts=7), random_of(tokens, 96)
    normed, experts, expert_weights = cpu.route(x, weights, active=3, eps=1e-5)
    expected = reference.route(x, weights, active=3, eps=1e-5)
    assert experts.tolist() == expected[1].tolist()
    assert_close(normed, expected[0], EXACT)
    assert_close(expert_weights, expected[2], EXACT)


@real_tokens
def test_int8_products_equal_the_reference_with_the_same_weights(cpu: CpuKernels, tokens: int) -> None:
    unembedding = random_of(71, 100, std=0.1).bfloat16()
    matrix = Int8Matrix(*quantize(unembedding))
    x, norm = random_of(tokens, 100, seed=1), torch.ones(100).bfloat16()
    got = cpu.unembed(x, norm, matrix, eps=0.0, dtype=torch.bfloat16)
    assert_close(got, reference.unembed(x, norm, matrix, eps=0.0, dtype=torch.float32), INT16)


LayerMaker = Callable[[torch.dtype], LayerCache]


def full_layer(dtype: torch.dtype) -> LayerCache:
    return FullLayer(2, 22, context_tokens=400, dtype=dtype, position=torch.zeros(1))


def sliding_layer(dtype: torch.dtype) -> LayerCache:
    return SlidingLayer(2, 22, window=11, dtype=dtype, position=torch.zeros(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layer", [full_layer, sliding_layer])
def test_attention_equals_the_reference(cpu: CpuKernels, layer: LayerMaker, dtype: torch.dtype) -> None:
    """Chunks of one token and of many, with more keys than the kernel takes at once."""
    sinks, ours, theirs, position = random_of(14).bfloat16(), layer(dtype), layer(dtype), 0
    for tokens in (3, 1, 90, 1, 64, 1, 9):
        heads = 14 * 22, 2 * 22, 2 * 22
        query, key, value = (random_of(tokens, size, seed=position + i, std=2) for i, size in enumerate(heads))
        angles = random_of(tokens, 11, seed=position)
        rotation = (angles.cos(), angles.sin())
        got = cpu.attend((query, key, value), rotation, sinks, ours, position=position)
        expected = reference.attend((query, key, value), rotation, sinks, theirs, position=position)
        # A sum in another order may fall on the other side of a bfloat16 boundary.
        assert_close(got, expected, 1e-5 if dtype is torch.float32 else 4e-3)
        position += tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decode_layers_equals_the_single_operations(cpu: CpuKernels, dtype: torch.dtype) -> None:
    """Bitwise, and beyond the end of the ring."""
    config = replace(
        published_config(layers=2, experts=3),
        hidden_size=96,
        query_heads=14,
        kv_heads=2,
        head_dim=22,
        active_experts=2,
        sliding_window=11,
        layer_kinds=(LayerKind.SLIDING, LayerKind.FULL),
    )
    layers = [LayerWeights(random_attention(96, 14, 2, 22), random_mlp(96, 64)) for _ in config.layer_kinds]
    together, separate = (KVCache(config, context_tokens=40, dtype=dtype, device="cpu") for _ in range(2))
    for position in range(15):
        x, angles = random_of(1, 96, seed=position), random_of(1, 11, seed=position)
        rotation = (angles.cos(), angles.sin())
        got = cpu.decode_layers(x, layers, together.layers, rotation, position=position, config=config, dtype=dtype)
        for weights, cache in zip(layers, separate.layers, strict=True):
            qkv = cpu.project_qkv(x, weights.attention, eps=config.norm_eps, dtype=dtype)
            attended = cpu.attend(qkv, rotation, weights.attention.sinks, cache, position=position)
            x = cpu.project_output(x, attended, weights.attention, dtype=dtype)
            routed = cpu.route(x, weights.mlp, active=2, eps=config.norm_eps)
            x = cpu.mix_experts(x, routed, weights.mlp, limit=config.swiglu_limit, dtype=dtype)
        assert torch.equal(got, x)


def down_products(
    kernels: Kernels, blocks: Array, scales: Array, *, tokens: int, dtype: torch.dtype
) -> tuple[Array, Array, Array]:
    """Multiply MXFP4 weights [32, G, 16] with known hidden values.

    Returns the result [T, 32], the expected one [32] in float64, and the tolerance [32]. The hidden values come from
    biases only: gate is 1, and up is random.
    """
    rows, groups, _ = blocks.shape
    width = groups * 32
    up = random_of(width, seed=1).bfloat16()
    hidden = (up.double().numpy() + 1) / (1 + math.exp(-SWIGLU_ALPHA))
    empty = torch.zeros(1, 2 * width, rows // 32, 16, dtype=torch.uint8)
    weights = MlpWeights(
        torch.ones(rows).bfloat16(),
        random_linear(1, rows),
        PackedExperts(
            empty,
            torch.full(empty.shape[:3], 127, dtype=torch.uint8),
            torch.stack((torch.ones_like(up), up), 1).view(1, -1),
        ),
        PackedExperts(torch.from_numpy(blocks)[None], torch.from_numpy(scales)[None], torch.zeros(1, rows).bfloat16()),
    )
    nothing = torch.zeros(tokens, rows)
    routed = (nothing, torch.zeros(tokens, 1, dtype=torch.int64), torch.ones(tokens, 1))
    got = kernels.mix_experts(nothing, routed, weights, limit=7.0, dtype=dtype)
    exact = numpy_dequantized(blocks, scales)
    tolerance = 3e-6 * (np.abs(exact) @ np.abs(hidden)) + 3e-45
    if dtype is torch.bfloat16:
        tolerance += np.abs(exact).sum(1) * np.abs(hidden).max() / 32639
    return got.double().numpy(), exact @ hidden, tolerance


def assert_products(kernels: Kernels, blocks: Array, scales: Array) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for tokens in (1, 7):
            got, expected, tolerance = down_products(kernels, blocks, scales, tokens=tokens, dtype=dtype)
            assert (np.abs(got - expected) <= tolerance).all()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=st.integers(1, 19), lowest=st.integers(0, 234), seed=st.integers(0, 2**32 - 1))
def test_products_of_random_blocks_and_scales_are_exact_enough(
    cpu: CpuKernels, groups: int, lowest: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (32, groups, 16), np.uint8)
    assert_products(cpu, blocks, random.integers(lowest, lowest + 8, (32, groups), np.uint8))


@pytest.mark.parametrize("element", [0x11, 0x99, 0x88, 0x80, 0x00], ids=["0.5", "-0.5", "-0", "0 and -0", "0"])
@pytest.mark.parametrize("scale", [0, 1, 127])
def test_halves_and_zeros_with_the_smallest_scales_are_exact(cpu: CpuKernels, element: int, scale: int) -> None:
    """With scale 0 the products are subnormal."""
    assert_products(cpu, np.full((32, 3, 16), element, np.uint8), np.full((32, 3), scale, np.uint8))


def test_the_largest_scale_is_not_infinite(cpu: CpuKernels) -> None:
    """Each row has one weight, 0.5 times 2^127, which is multiplied by a hidden value below 4."""
    blocks = np.zeros((32, 3, 16), np.uint8)
    blocks[np.arange(32), np.arange(32) % 3, np.arange(32) % 16] = 1
    assert_products(cpu, blocks, np.full((32, 3), 254, np.uint8))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_and_infinite_activations_reach_the_result(
    cpu: CpuKernels, value: float, tokens: int, dtype: torch.dtype
) -> None:
    weights, normed = random_mlp(96, 32), random_of(tokens, 96)
    normed[:, 40] = value
    routed = (normed, torch.zeros(tokens, 1, dtype=torch.int64), torch.ones(tokens, 1))
    got = cpu.mix_experts(torch.zeros(tokens, 96), routed, weights, limit=7.0, dtype=dtype)
    assert not got.isfinite().any()


@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("group", [0, 8])
def test_a_nan_scale_reaches_the_result(cpu: CpuKernels, tokens: int, dtype: torch.dtype, group: int) -> None:
    """Infinity instead of NaN would be clamped to the limit of the activation, and go unnoticed."""
    weights, normed = random_mlp(288, 32), random_of(tokens, 288)
    packed_only(weights.gate_up).scales[0, 7, group] = 255
    routed = (normed, torch.zeros(tokens, 1, dtype=torch.int64), torch.ones(tokens, 1))
    got = cpu.mix_experts(torch.zeros(tokens, 288), routed, weights, limit=7.0, dtype=dtype)
    assert not got.isfinite().any()


def test_loading_the_library_leaves_subnormal_numbers_alone(native: Native) -> None:
    """-ffast-math would make the whole process flush them to zero."""
    program = (
        "import ctypes, sys, torch; ctypes.CDLL(sys.argv[1]);"
        "print(1e-30 * 1e-10 == 0, float(torch.tensor(1e-30) * torch.tensor(1e-10)) == 0)"
    )
    done = subprocess.run([sys.executable, "-c", program, native.path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_best_instructions_pass_the_self_check(native: Native) -> None:
    best = native.instructions
    assert native.select("scalar")
    assert native.self_check() is None
    assert native.instructions == best


def test_instructions_that_compute_wrongly_are_a_shortcoming(native: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_module, "find_library", lambda: native.path)
    monkeypatch.setattr(Native, "self_check", lambda *_: "avx512")
    kernels = cpu_module.find_kernels(threads=1)
    assert isinstance(kernels, CpuKernels)
    assert kernels.shortcoming is not None
    assert "computes avx512 instructions wrongly" in kernels.shortcoming


def test_the_environment_chooses_the_instructions(native: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    best, *_ = names = native.available()
    try:
        for name in names:
            monkeypatch.setenv("GPTOSS_CPU_KERNELS", f" {name.upper()}")
            assert check_instructions(native) is None
            assert native.instructions == name
    finally:
        native.select("")
    assert native.instructions == best


def test_instructions_that_this_machine_lacks_are_refused_with_those_that_it_has(
    native: Native, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = native.instructions
    monkeypatch.setenv("GPTOSS_CPU_KERNELS", "sse2")
    with pytest.raises(UsageError, match=r"GPTOSS_CPU_KERNELS is 'sse2'\. This machine can run: .*scalar$"):
        check_instructions(native)
    assert native.instructions == before


def test_unknown_instruction_sets_are_refused_and_change_nothing(native: Native) -> None:
    before = native.instructions
    assert not native.select("avx1024")
    assert native.instructions == before


@pytest.mark.parametrize("count", [0, 8, 4096])
def test_read_adds_up_whole_cache_lines(native: Native, count: int) -> None:
    words = np.arange(count, dtype=np.uint64)
    assert native.read(words.ctypes.data, count, 2) == int(words.sum())
