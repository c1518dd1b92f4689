"""Random weights have the shapes of a checkpoint, lie where the placement says, and run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gptoss_cli.engine.loader import load_random
from gptoss_cli.engine.pinned_memory import rows_on_device
from gptoss_cli.engine.random_weights import random_weights
from gptoss_cli.engine.weights import Int8Matrix
from gptoss_cli.errors import Hint, ResourceError, UsageError
from gptoss_cli.generation import Sampling
from gptoss_cli.placement.model_config import ModelConfig, load_config
from gptoss_cli.placement.placement import KernelSet, MemoryUse, Placement, WeightPlacement
from gptoss_cli.settings import Dense
from tests.engine.checkpoints import Shape, write_checkpoint
from tests.engine.fake_cuda import fake_cuda
from tests.engine.open_generator import open_generator

SHAPE = Shape()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), SHAPE)


@pytest.fixture(scope="module")
def config(folder: Path) -> ModelConfig:
    return load_config(folder / "config.json")


@pytest.mark.parametrize("dense", list(Dense))
def test_they_have_the_shapes_of_a_checkpoint_and_run(folder: Path, config: ModelConfig, dense: Dense) -> None:
    generator = load_random(config, Placement(context_tokens=64, dense=dense))
    real = open_generator(folder).model.weights
    made = generator.model.weights
    assert made.embedding.shape == real.embedding.shape
    for made_layer, real_layer in zip(made.layers, real.layers, strict=True):
        for part in ("gate_up", "down"):
            got, right = getattr(made_layer.mlp, part), getattr(real_layer.mlp, part)
            assert (got.blocks.shape, got.scales.shape, got.bias.shape) == (
                right.blocks.shape,
                right.scales.shape,
                right.bias.shape,
            )
        assert isinstance(made_layer.attention.query.weight, Int8Matrix) == (dense is Dense.INT8)
    list(generator.prefill([1, 2, 3]))
    new = list(generator.decode(Sampling(seed=1), stop_ids=(), banned_ids=(), max_tokens=8))
    assert len(new) == 8
    assert torch.isfinite(generator.logits([1, 2, 3])).all()


def test_they_are_the_same_each_time_and_differ_from_row_to_row(config: ModelConfig) -> None:
    first, second = (random_weights(config, Placement(context_tokens=64)) for _ in range(2))
    one, other = (rows_on_device(each.embedding) for each in (first, second))
    assert torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    router = first.layers[0].mlp.router.weight
    assert isinstance(router, torch.Tensor)
    assert not torch.equal(router[0], router[1])


def test_they_lie_on_the_devices_of_the_placement(config: ModelConfig) -> None:
    experts = config.layers * config.experts
    for count, embedding in ((experts, True), (experts // 2, False)):
        weights = WeightPlacement(gpu_experts=count, embedding_on_gpu=embedding)
        placement = Placement(
            context_tokens=64, device="cuda:0", kernels=KernelSet.TRITON, weights=weights, gpu=MemoryUse()
        )
        with fake_cuda():
            generator = load_random(config, placement)
            made = generator.model.weights
            assert made.embedding.is_cuda == embedding
            assert made.final_norm.is_cuda
            assert sum(gate_up.slots.count for gate_up, _ in made.placed_experts()) == count
            list(generator.prefill([1, 2, 3]))


@pytest.mark.parametrize("dense", list(Dense))
def test_a_host_without_memory_for_them_is_refused_before_they_are_made(config: ModelConfig, dense: Dense) -> None:
    host = MemoryUse(dense_bytes=60 << 30, room_bytes=20 << 30)
    placement = Placement(context_tokens=64, host=host, dense=dense)
    with pytest.raises(ResourceError, match=r"need 60\.0 GiB of memory, and 20\.0 GiB are available") as raised:
        load_random(config, placement)
    assert Hint.FREE_MEMORY in raised.value.hints
    enough = replace(placement, host=replace(host, room_bytes=61 << 30))
    assert len(random_weights(config, enough).layers) == config.layers


def test_a_context_that_the_model_does_not_have_is_refused(config: ModelConfig) -> None:
    with pytest.raises(UsageError, match="context"):
        load_random(config, Placement(context_tokens=config.max_context_tokens + 1))
