"""The reference agrees with an independent implementation in numpy and float64."""

import numpy as np
import pytest
import torch

from gptoss_cli.engine.expert_offload import PackedExperts, packed_only
from gptoss_cli.engine.kernels import reference
from gptoss_cli.engine.kernels.protocol import Kernels
from gptoss_cli.engine.kv_cache import FullLayer
from gptoss_cli.engine.weights import AttentionWeights, Linear, MlpWeights
from tests.engine.checkpoints import Array
from tests.engine.kernels.random_weights import assert_close, random_attention, random_of

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def numpy_dequantized(blocks: Array, scales: Array) -> Array:
    """Dequantize blocks [..., G, 16] and scales [..., G] -> [..., G * 32] float64, element by element."""
    values = np.empty((*scales.shape, 32))
    for byte in range(16):
        values[..., 2 * byte] = np.take(E2M1, blocks[..., byte] % 16)
        values[..., 2 * byte + 1] = np.take(E2M1, blocks[..., byte] // 16)
    values *= 2.0 ** (scales.astype(np.float64) - 127)[..., None]
    return values.reshape(*scales.shape[:-1], -1)


def test_reference_has_every_operation() -> None:
    kernels: Kernels = reference
    assert callable(kernels.embed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_byte_with_every_scale_is_dequantized_exactly(dtype: torch.dtype) -> None:
    """Elements beyond the largest float32 (4 and 6 with scales 253 and 254) are infinite, as in IEEE 754."""
    blocks = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16), (255, 16, 16)).copy()
    scales = np.broadcast_to(np.arange(255, dtype=np.uint8)[:, None], (255, 16)).copy()
    got = reference.dequantize(torch.from_numpy(blocks), torch.from_numpy(scales), dtype)
    with np.errstate(over="ignore"):
        expected = numpy_dequantized(blocks, scales).astype(np.float32)
    assert got.dtype is dtype
    assert np.array_equal(got.float().numpy(), expected)


def test_scale_255_is_nan() -> None:
    scales = torch.full((1, 1), 255, dtype=torch.uint8)
    assert reference.dequantize(torch.zeros(1, 1, 16, dtype=torch.uint8), scales, torch.float32).isnan().all()


def test_gate_is_clamped_above_only_and_up_on_both_sides() -> None:
    """The products of this expert are its biases: even rows are gate, odd rows up."""
    gate, up, limit = np.array([-50.0, -2.0, 0.5, 9.0]), np.array([-9.0, 0.25, 9.0, 1.0]), 1.5
    bias = np.stack((gate, up), 1).reshape(1, -1)
    ones = 0x22  # two elements of 1.0
    weights = MlpWeights(
        norm=torch.ones(32),
        router=Linear(torch.zeros(1, 32), torch.zeros(1)),
        gate_up=PackedExperts(
            torch.zeros(1, 8, 1, 16, dtype=torch.uint8),
            torch.full((1, 8, 1), 127, dtype=torch.uint8),
            torch.tensor(bias, dtype=torch.float32),
        ),
        down=PackedExperts(
            torch.full((1, 3, 1, 16), ones, dtype=torch.uint8),
            torch.full((1, 3, 1), 127, dtype=torch.uint8),
            torch.zeros(1, 3),
        ),
    )
    wide = _padded(weights, 32)
    routed = (torch.ones(1, 32), torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), 0.5))
    got = reference.mix_experts(torch.ones(1, 3), routed, wide, limit=limit, dtype=torch.float32)
    clamped = np.minimum(gate, limit)
    activated = (np.clip(up, -limit, limit) + 1) * clamped / (1 + np.exp(-1.702 * clamped))
    assert np.allclose(got.numpy(), 1 + 0.5 * activated.sum(), rtol=1e-5)


def _padded(weights: MlpWeights, intermediate: int) -> MlpWeights:
    """Add rows of zeros to gate and up, so that there are `intermediate` of each."""
    gate_up = packed_only(weights.gate_up)
    rows = 2 * intermediate - gate_up.bias.shape[1]
    padded = PackedExperts(
        torch.nn.functional.pad(gate_up.blocks, (0, 0, 0, 0, 0, rows)),
        torch.nn.functional.pad(gate_up.scales, (0, 0, 0, rows)),
        torch.nn.functional.pad(gate_up.bias, (0, rows)),
    )
    return MlpWeights(weights.norm, weights.router, padded, weights.down)


def test_expert_weights_are_the_softmax_of_the_chosen_logits() -> None:
    router = Linear(torch.zeros(4, 32), torch.tensor([1.0, 3.0, -2.0, 2.0]))
    unused = PackedExperts(*(torch.empty(0) for _ in range(3)))
    weights = MlpWeights(torch.ones(32), router, unused, unused)
    _, experts, expert_weights = reference.route(torch.ones(1, 32), weights, active=2, eps=1e-5)
    assert experts.tolist() == [[1, 3]]
    assert torch.allclose(expert_weights, torch.tensor([[3.0, 2.0]]).softmax(-1))


@pytest.mark.parametrize("rows", [5, 16_384, 16_385, 40_000])
def test_unembedding_in_slices_covers_every_row(rows: int) -> None:
    random = torch.Generator().manual_seed(0)
    unembedding = torch.randn(rows, 32, generator=random).bfloat16()
    x = torch.randn(3, 32, generator=random)
    logits = reference.unembed(x, torch.ones(32), unembedding, eps=0.0, dtype=torch.float32)
    normed = x / x.square().mean(-1, keepdim=True).sqrt()
    assert torch.allclose(logits, normed @ unembedding.float().T, atol=1e-4)


def test_attention_in_slices_equals_attention_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    qkv = (torch.randn(9, 84, generator=random), *torch.randn(2, 9, 28, generator=random))
    rotation = (torch.ones(9, 7), torch.zeros(9, 7))
    sinks = torch.randn(6, generator=random)

    def attended() -> torch.Tensor:
        layer = FullLayer(2, 14, context_tokens=9, dtype=torch.float32, position=torch.zeros(1))
        return reference.attend((qkv[0], qkv[1], qkv[2]), rotation, sinks, layer, position=0)

    whole = attended()
    monkeypatch.setattr(reference, "_MAX_SCORES", 6 * 9 * 2)
    assert torch.allclose(attended(), whole, atol=1e-6)


def test_query_key_and_value_that_lie_together_are_one_product() -> None:
    apart = random_attention(96, 6, 2, 10)
    weight = torch.cat([torch.as_tensor(part.weight) for part in (apart.query, apart.key, apart.value)])
    bias = torch.cat([part.bias for part in (apart.query, apart.key, apart.value)])
    bounds = ((0, 60), (60, 80), (80, 100))
    query, key, value = (Linear(weight[start:end], bias[start:end]) for start, end in bounds)
    together = AttentionWeights(apart.norm, query, key, value, apart.output, apart.sinks)
    joined = together.joined_qkv
    assert joined is not None
    assert torch.equal(torch.as_tensor(joined.weight), weight)
    assert torch.equal(joined.bias, bias)
    for wrong in (apart, AttentionWeights(apart.norm, query, value, key, apart.output, apart.sinks)):
        assert wrong.joined_qkv is None
    for tokens in (1, 9):
        x = random_of(tokens, 96, seed=3)
        results = [reference.project_qkv(x, each, eps=1e-5, dtype=torch.float32) for each in (together, apart)]
        for got, right in zip(*results, strict=True):
            assert got.is_contiguous()
            assert_close(got, right, 1e-6)
