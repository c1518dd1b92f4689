"""Random weights of any shape for the tests of kernels, and a comparison of results."""

from dataclasses import fields
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from gptoss_cli.engine.expert_offload import PackedExperts
from gptoss_cli.engine.weights import AttentionWeights, Linear, MlpWeights

Weights = TypeVar("Weights")


def on_device(weights: Weights, device: torch.device | str) -> Weights:
    """Return a copy of a tensor, or of a dataclass of tensors and of such classes, on `device`."""
    part: Any = weights
    if isinstance(part, Tensor):
        moved: Any = part.to(device)
    else:
        moved = type(part)(*(on_device(getattr(part, field.name), device) for field in fields(part)))
    return cast(Weights, moved)


def random_of(*size: int, seed: int = 0, std: float = 1.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, std, size).astype(np.float32))


def random_linear(rows: int, columns: int, seed: int = 0) -> Linear:
    weight = random_of(rows, columns, seed=seed, std=columns**-0.5).bfloat16()
    return Linear(weight, random_of(rows, seed=seed + 1).bfloat16())


def random_experts(experts: int, rows: int, columns: int, seed: int = 0) -> PackedExperts:
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (experts, rows, columns // 32, 16), np.uint8)
    scales = random.integers(118, 123, (experts, rows, columns // 32), np.uint8)
    bias = random_of(experts, rows, seed=seed).bfloat16()
    return PackedExperts(torch.from_numpy(blocks), torch.from_numpy(scales), bias)


def random_mlp(hidden: int, intermediate: int, experts: int = 3) -> MlpWeights:
    return MlpWeights(
        random_of(hidden, seed=1).bfloat16(),
        random_linear(experts, hidden, seed=2),
        random_experts(experts, 2 * intermediate, hidden, seed=3),
        random_experts(experts, hidden, intermediate, seed=4),
    )


def random_attention(hidden: int, heads: int, kv_heads: int, head_dim: int) -> AttentionWeights:
    return AttentionWeights(
        norm=random_of(hidden, seed=9).bfloat16(),
        query=random_linear(heads * head_dim, hidden, seed=1),
        key=random_linear(kv_heads * head_dim, hidden, seed=2),
        value=random_linear(kv_heads * head_dim, hidden, seed=3),
        output=random_linear(hidden, heads * head_dim, seed=4),
        sinks=random_of(heads, seed=6).bfloat16(),
    )


def assert_close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    assert got.shape == expected.shape
    assert got.dtype is torch.float32
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()
