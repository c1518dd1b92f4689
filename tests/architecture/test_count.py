"""The counts equal transformers' models, the tensors of a checkpoint, the engine's cache, and the published figures."""

import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from gptoss_cli.architecture import count
from gptoss_cli.architecture.known import (
    GPT2_XL,
    GPT_OSS_20B,
    GPT_OSS_120B,
    KNOWN,
    QWEN3_30B_A3B,
    QWEN3_235B_A22B,
    Architecture,
    ModelType,
    find_architecture,
)
from gptoss_cli.architecture.published import ACTIVE_COUNTS, PublishedCount
from gptoss_cli.engine.kv_cache import KVCache
from gptoss_cli.placement.memory import model_memory
from gptoss_cli.placement.model_config import LayerKind, published_config
from gptoss_cli.placement.tensor_specs import Layout, expected_tensors

_GPT_OSS = (GPT_OSS_20B, GPT_OSS_120B)


def _config_of(model: Architecture) -> dict[str, int]:
    """Return the arguments of transformers' config class for `model`."""
    if model.model_type is ModelType.GPT2:
        return {
            "n_embd": model.hidden_size,
            "n_head": model.query_heads,
            "n_layer": model.layers,
            "n_positions": model.max_context_tokens,
            "vocab_size": model.vocabulary_size,
        }
    shared = {
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.query_heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "vocab_size": model.vocabulary_size,
        "num_experts_per_tok": model.active_experts,
        "tie_word_embeddings": False,
    }
    if model.model_type is ModelType.QWEN3_MOE:
        return shared | {"num_experts": model.experts, "moe_intermediate_size": model.intermediate_size}
    return shared | {"num_local_experts": model.experts, "intermediate_size": model.intermediate_size}


@pytest.mark.parametrize("model", KNOWN, ids=lambda model: model.name)
def test_parameters_equal_those_of_transformers(model: Architecture) -> None:
    config = AutoConfig.for_model(model.model_type.value, **_config_of(model))
    with torch.device("meta"):
        reference = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    # parameters() yields a tied tensor once.
    assert count.parameters(model) == sum(parameter.numel() for parameter in reference.parameters())


@pytest.mark.parametrize("model", _GPT_OSS, ids=lambda model: model.name)
def test_bytes_equal_the_tensors_of_the_checkpoint(model: Architecture) -> None:
    config = published_config(layers=model.layers, experts=model.experts)
    sizes = {"BF16": 2, "U8": 1}
    tensors = expected_tensors(config, Layout.HUGGING_FACE).values()
    assert count.mxfp4_bytes(model) == sum(math.prod(spec.shape) * sizes[spec.dtype] for spec in tensors)
    memory = model_memory(config)
    assert count.bytes_per_decoded_token(model) == memory.dense_bytes + memory.active_bytes


@pytest.mark.parametrize("stated", ACTIVE_COUNTS, ids=lambda stated: stated.model)
def test_active_parameters_equal_the_published_ones_within_their_rounding(stated: PublishedCount) -> None:
    model = find_architecture(stated.model)
    assert model is not None
    function = count.active_parameters if stated.with_embedding else count.active_parameters_without_embedding
    assert round(function(model) / 1e9, stated.decimals) == stated.billions


@pytest.mark.parametrize("context_tokens", [1, 127, 128, 129, 300])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kv_bytes_equal_the_allocation_of_the_engine(context_tokens: int, dtype: torch.dtype) -> None:
    config = published_config(layers=24, experts=32)
    cache = KVCache(config, context_tokens=context_tokens, dtype=dtype, device="cpu")
    allocated = 0
    for layer in cache.layers:
        layer.slots(context_tokens)
        allocated += sum(buffer.numel() * buffer.element_size() for buffer in layer.buffers())
    assert allocated == count.kv_cache_bytes(GPT_OSS_20B, context_tokens, dtype.itemsize)


def test_windows_equal_the_layers_of_the_engine() -> None:
    for model in _GPT_OSS:
        config = published_config(layers=model.layers, experts=model.experts)
        windows = tuple(config.sliding_window if kind is LayerKind.SLIDING else 0 for kind in config.layer_kinds)
        assert model.windows == windows


_Row = tuple[int | None, ...]
_NO = None
# Exact counts of gpt2-xl, gpt-oss-20b, gpt-oss-120b, qwen3-30b-a3b, qwen3-235b-a22b.
_EXACT: dict[str, _Row] = {
    "parameters": (1_557_611_200, 20_914_757_184, 116_829_156_672, 30_532_122_624, 235_093_634_560),
    "embedding_parameters": (80_411_200, 579_133_440, 579_133_440, 311_164_928, 622_329_856),
    "position_parameters": (1_638_400, 0, 0, 0, 0),
    "unembedding_parameters": (0, 579_133_440, 579_133_440, 311_164_928, 622_329_856),
    "attention_parameters": (491_827_200, 637_203_456, 955_805_184, 905_981_952, 6_702_521_856),
    "experts_parameters": (983_424_000, 19_116_933_120, 114_701_598_720, 28_991_029_248, 227_096_395_776),
    "router_parameters": (0, 2_212_608, 13_275_648, 12_582_912, 49_283_072),
    "norm_parameters": (310_400, 141_120, 210_240, 198_656, 774_144),
    "expert_parameters": (_NO, 24_891_840, 24_891_840, 4_718_592, 18_874_368),
    "active_parameters": (1_557_611_200, 4_187_440_704, 5_711_982_912, 3_353_032_704, 22_190_763_520),
    "active_parameters_without_embedding": (
        1_557_611_200, 3_608_307_264, 5_132_849_472, 3_041_867_776, 21_568_433_664,
    ),
    "kv_bytes_per_token_full": (307_200, 49_152, 73_728, 98_304, 192_512),
    "kv_bytes_per_further_token": (307_200, 24_576, 36_864, 98_304, 192_512),
    "kv_window_bytes": (0, 3 << 20, 9 << 19, 0, 0),
    "packed_experts_bytes": (_NO, 10_152_345_600, 60_914_073_600, _NO, _NO),
}  # fmt: skip
_MODELS = (GPT2_XL, GPT_OSS_20B, GPT_OSS_120B, QWEN3_30B_A3B, QWEN3_235B_A22B)


@pytest.mark.parametrize("name", _EXACT)
def test_counts_are_exact(name: str) -> None:
    function = getattr(count, name)
    computed = tuple(None if row is None else function(m) for m, row in zip(_MODELS, _EXACT[name], strict=True))
    assert computed == _EXACT[name]


def _mib(context_tokens: int) -> list[float]:
    return [count.kv_cache_bytes(model, context_tokens) / 2**20 for model in _MODELS]


def test_kv_cache_is_exact() -> None:
    assert _mib(1_024)[0] == 300
    assert _mib(4_096)[1:] == [99, 148.5, 384, 752]
    assert _mib(32_768)[1:] == [771, 1_156.5, 3_072, 6_016]
    assert _mib(131_072)[1:] == [3_075, 4_612.5, 12_288, 24_064]
    assert count.kv_bytes_per_token_full(GPT2_XL) / count.kv_bytes_per_further_token(GPT_OSS_20B) == 12.5
    assert count.kv_bytes_per_token_multi_head(GPT_OSS_20B) == 393_216


def test_operations_are_exact() -> None:
    assert [round(count.matrix_flops_per_token(m) / 1e9, 2) for m in _MODELS] == [3.11, 7.22, 10.27, 6.08, 43.14]
    at_4k = [round(count.attention_flops_per_token(m, 4_096) / 1e9, 2) for m in _MODELS[1:]]
    at_131k = [round(count.attention_flops_per_token(m, 131_072) / 1e9, 1) for m in _MODELS[1:]]
    assert at_4k == [0.83, 1.25, 3.22, 12.62]
    assert at_131k == [25.8, 38.7, 103.1, 403.7]


def test_weights_are_exact() -> None:
    assert [round(count.bf16_bytes(m) / 1e9, 1) for m in _MODELS] == [3.1, 41.8, 233.7, 61.1, 470.2]
    assert [round(count.bf16_bytes(m) / 2**30, 1) for m in _GPT_OSS] == [39.0, 217.6]
    assert [round(count.mxfp4_bytes(m) / 1e9, 2) for m in _GPT_OSS] == [13.76, 65.25]
    assert [round(count.mxfp4_bytes(m) / 2**30, 1) for m in _GPT_OSS] == [12.8, 60.8]
    assert [round(count.bits_per_parameter(m), 2) for m in _MODELS] == [16, 5.26, 4.47, 16, 16]
    assert [round(count.bytes_per_decoded_token(m) / 1e9, 2) for m in _MODELS] == [3.11, 3.71, 5.00, 6.08, 43.14]
    assert [count.expert_mxfp4_bytes(m) for m in (GPT_OSS_20B, QWEN3_30B_A3B)] == [13_219_200, 2_506_752]


def test_shares_and_ratios_are_exact() -> None:
    shares = [round(100 * count.experts_parameters(m) / count.parameters(m), 1) for m in _MODELS]
    assert shares == [63.1, 91.4, 98.2, 95.0, 96.6]
    active = [round(100 * count.active_parameters_without_embedding(m) / count.parameters(m), 1) for m in _MODELS]
    assert active == [100, 17.3, 4.4, 10.0, 9.2]
    assert [round(count.width_to_depth(m)) for m in _MODELS] == [33, 120, 80, 43, 44]
    assert [count.active_feed_forward_width(m) / m.hidden_size for m in _MODELS] == [4, 4, 4, 3, 3]
    assert [count.expert_combinations(m) for m in _GPT_OSS] == [35_960, 10_668_000]
    assert round(count.expert_combinations(QWEN3_30B_A3B), -10) == 1_430_000_000_000
    assert round(count.parameters(GPT_OSS_120B) / count.parameters(QWEN3_235B_A22B), 3) == 0.497


def test_a_gated_layer_of_the_article_has_fewer_weights() -> None:
    assert count.feed_forward_weights(1_024, 4_096, gated=False) == 8_388_608
    assert count.feed_forward_weights(1_024, 1_024, gated=True) == 3_145_728
