"""Predicted sizes, compared with the published ones and with what torch allocates for small checkpoints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gptoss_cli.engine.expert_offload import PackedExperts, PlacedExperts, packed_only
from gptoss_cli.engine.kv_cache import KVCache
from gptoss_cli.engine.pinned_memory import rows_on_device
from gptoss_cli.engine.quantize import int8_weights
from gptoss_cli.engine.weights import Int8Matrix, ModelWeights, load_weights
from gptoss_cli.placement.choose import GPU_WORK_BYTES, choose
from gptoss_cli.placement.memory import STAGING_BYTES, model_memory
from gptoss_cli.placement.model_config import load_config, published_config
from gptoss_cli.placement.placement import Placement
from gptoss_cli.placement.request import PlacementRequest
from gptoss_cli.settings import Dense, Dtype, Execution
from tests.engine.checkpoints import FULL, REAL_20B, SLIDING, ConfigStyle, Shape, write_checkpoint, write_config
from tests.placement.machines import GIB, GPT_OSS_20B, GPT_OSS_120B, gpu, machine

_SHAPES = {
    "alternating": Shape(),
    "no sliding layer": Shape(layer_types=(FULL, FULL)),
    "wide experts": Shape(hidden=160, intermediate=352, experts=9, active=3),
    "large vocabulary": Shape(vocabulary=5_003, layer_types=(SLIDING, FULL, FULL, SLIDING)),
}


def test_the_published_models_have_their_published_sizes() -> None:
    small, large = model_memory(GPT_OSS_20B), model_memory(GPT_OSS_120B)
    assert small.dense_bytes + small.embedding_bytes == 3_595_648_128
    assert large.dense_bytes + large.embedding_bytes == 4_255_115_904
    assert (small.experts_bytes, large.experts_bytes) == (10_165_616_640, 60_993_699_840)
    assert small.expert_bytes == large.expert_bytes == 13_219_200 + 17_280
    assert (small.token_bytes, large.token_bytes) == (24_576, 36_864)
    assert (small.ring_bytes, large.ring_bytes) == (3 << 20, 9 << 19)


def test_a_published_model_needs_no_config_file(tmp_path: Path) -> None:
    assert published_config(layers=24, experts=32) == load_config(write_config(tmp_path, REAL_20B))


@pytest.mark.parametrize("style", [ConfigStyle.PUBLISHED, ConfigStyle.ORIGINAL])
@pytest.mark.parametrize("name", _SHAPES)
def test_predicted_weights_are_what_is_allocated(name: str, style: ConfigStyle, tmp_path: Path) -> None:
    if style is ConfigStyle.ORIGINAL and name in ("no sliding layer", "large vocabulary"):
        pytest.skip("that layout's layers alternate")
    folder = write_checkpoint(tmp_path, _SHAPES[name], style=style)
    config = load_config(folder / "config.json")
    placement, mapped = choose(config, machine()), load_weights(folder, config)
    kept: list[Tensor] = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept += [tensor.clone() for tensor in _experts(mapped)]
    assert placement.host.experts_bytes == pytest.approx(_allocated(profiled), rel=0.03)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept += [tensor.clone() for tensor in _dense(mapped)]
    assert placement.host.dense_bytes == pytest.approx(_allocated(profiled), rel=0.03)


@pytest.mark.parametrize("dtype", list(Dtype))
@pytest.mark.parametrize("name", _SHAPES)
def test_the_predicted_cache_is_what_is_allocated(name: str, dtype: Dtype, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, _SHAPES[name])
    config = load_config(folder / "config.json")
    placement = choose(config, machine(), PlacementRequest(context_tokens=700, dtype=dtype))
    torch_dtype = getattr(torch, dtype)
    read = torch.zeros(placement.context_tokens, config.kv_heads, config.head_dim, dtype=torch_dtype)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        cache = KVCache(config, context_tokens=placement.context_tokens, dtype=torch_dtype, device="cpu")
        for layer in cache.layers:
            layer.append(read, read, 0)
    assert placement.host.cache_bytes == pytest.approx(_allocated(profiled), rel=0.03)


@pytest.mark.parametrize("fraction", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("name", ["wide experts", "large vocabulary"])
def test_the_predicted_experts_of_a_gpu_are_what_is_put_there(name: str, fraction: float, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, _SHAPES[name])
    config = load_config(folder / "config.json")
    sizes = model_memory(config)
    others = sizes.dense_bytes + sizes.cache_bytes(config.max_context_tokens) + GPU_WORK_BYTES + STAGING_BYTES
    budget = others + int(fraction * sizes.experts_bytes)
    placement = choose(config, machine(gpu(budget / GIB)), PlacementRequest(execution=Execution.OFFLOAD))
    assert placement.gpu is not None
    assert placement.gpu_experts == pytest.approx(fraction * placement.experts, abs=1)
    weights = load_weights(folder, config, replace(placement, device="cpu"))
    pairs = [(layer.mlp.gate_up, layer.mlp.down) for layer in weights.layers]
    used = sum(_bytes_on_gpu(part) for pair in pairs for part in pair)
    # The experts in host memory have their biases on the GPU.
    assert used - placement.gpu.experts_bytes <= 0.06 * placement.host.experts_bytes
    assert placement.gpu.used_bytes - placement.gpu.experts_bytes + used <= 1.03 * budget


def _bytes_on_gpu(experts: PackedExperts | PlacedExperts) -> int:
    assert isinstance(experts, PlacedExperts)
    return experts.nbytes * experts.slots.count // len(experts.bias) + experts.bias.nbytes


@pytest.mark.parametrize("name", _SHAPES)
def test_the_predicted_8_bit_dense_weights_are_what_is_kept(name: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", _SHAPES[name])
    config = load_config(folder / "config.json")
    placement = choose(config, machine(), PlacementRequest(dense=Dense.INT8))
    smaller = int8_weights(load_weights(folder, config), tmp_path, "made-from-it")
    parts = [tensor for part in _dense_parts(smaller) for tensor in _tensors(part)]
    assert placement.host.dense_bytes == pytest.approx(sum(tensor.nbytes for tensor in parts), rel=0.03)
    assert placement.to_json()["dense"] == "int8"


def test_with_8_bit_dense_weights_a_token_of_the_20b_reads_30_percent_less() -> None:
    bf16, int8 = (
        choose(GPT_OSS_20B, machine()),
        choose(GPT_OSS_20B, machine(), PlacementRequest(dense=Dense.INT8)),
    )
    assert bf16.bound.host_bytes == pytest.approx(3.71e9, rel=0.01)
    assert int8.bound.host_bytes == pytest.approx(2.62e9, rel=0.02)


def test_a_placement_on_the_cpu_counts_weights_and_cache_once() -> None:
    placement: Placement = choose(GPT_OSS_20B, machine())
    sizes = model_memory(GPT_OSS_20B)
    used = placement.host.used_bytes - placement.host.work_bytes
    weights = sizes.embedding_bytes + sizes.dense_bytes + sizes.experts_bytes
    assert used == weights + sizes.cache_bytes(placement.context_tokens)


def _experts(weights: ModelWeights) -> list[Tensor]:
    packed = [packed_only(part) for layer in weights.layers for part in (layer.mlp.gate_up, layer.mlp.down)]
    return [tensor for part in packed for tensor in (part.blocks, part.scales, part.bias)]


def _dense(weights: ModelWeights) -> list[Tensor]:
    return [tensor for part in _dense_parts(weights) for tensor in _tensors(part)]


def _tensors(part: Tensor | Int8Matrix) -> tuple[Tensor, ...]:
    return (part,) if isinstance(part, Tensor) else (part.values, part.scales)


def _dense_parts(weights: ModelWeights) -> list[Tensor | Int8Matrix]:
    tensors: list[Tensor | Int8Matrix] = [rows_on_device(weights.embedding), weights.final_norm, weights.unembedding]
    for layer in weights.layers:
        attention = layer.attention
        linears = (attention.query, attention.key, attention.value, attention.output, layer.mlp.router)
        tensors += [attention.norm, attention.sinks, layer.mlp.norm]
        tensors += [tensor for linear in linears for tensor in (linear.weight, linear.bias)]
    return tensors


def _allocated(profiled: profile) -> int:
    """Return the bytes that torch allocated and has not freed."""
    return int(sum(event.self_cpu_memory_usage for event in profiled.key_averages()))
