"""Architectures are read from config.json of three families; wrong files are refused by their kind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_cli.architecture.config import read_architecture
from gptoss_cli.architecture.figures import show
from gptoss_cli.architecture.known import (
    GPT2_XL,
    GPT_OSS_20B,
    KNOWN,
    QWEN3_30B_A3B,
    QWEN3_235B_A22B,
    Architecture,
    WeightFormat,
    find_architecture,
)
from gptoss_cli.architecture.rope import rotations
from gptoss_cli.architecture.rows import FIGURES
from gptoss_cli.errors import ExitStatus, GptossError, IntegrityError, UsageError
from tests.engine.checkpoints import REAL_20B, ConfigStyle, Shape, write_checkpoint

_GPT2_XL: dict[str, Any] = {
    "model_type": "gpt2",
    "n_embd": 1600,
    "n_head": 25,
    "n_layer": 48,
    "n_ctx": 1024,
    "n_positions": 1024,
    "vocab_size": 50257,
    "layer_norm_epsilon": 1e-05,
    "resid_pdrop": 0.1,
}
_QWEN3_30B: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def _read(values: dict[str, Any]) -> Architecture:
    return read_architecture(values, name="x", path="config.json")


@pytest.mark.parametrize(
    ("values", "known"),
    [
        (_GPT2_XL, GPT2_XL),
        (_QWEN3_30B, QWEN3_30B_A3B),
        (
            _QWEN3_30B
            | {"hidden_size": 4096, "moe_intermediate_size": 1536, "num_attention_heads": 64, "num_hidden_layers": 94},
            QWEN3_235B_A22B,
        ),
        (REAL_20B, GPT_OSS_20B),
    ],
)
def test_a_published_config_is_read_as_the_known_architecture(values: dict[str, Any], known: Architecture) -> None:
    read = _read(values)
    assert replace(read, name=known.name, source=known.source, released=known.released, license=known.license) == known


@pytest.mark.parametrize("style", list(ConfigStyle))
def test_every_style_of_a_gpt_oss_config_is_read(style: ConfigStyle, tmp_path: Path) -> None:
    shape = Shape(layer_types=("sliding_attention", "full_attention") * 2)
    write_checkpoint(tmp_path, shape, style=style)
    read = _read(json.loads((tmp_path / "config.json").read_text()))
    assert (read.hidden_size, read.layers, read.experts, read.active_experts) == (96, 4, 6, 4)
    assert read.windows == (11, 0, 11, 0)
    assert read.yarn is not None
    assert (read.rope_theta, read.yarn.factor, read.yarn.original_context_tokens) == (9_500.0, 13.0, 60)
    assert read.expert_format is WeightFormat.MXFP4


def test_a_gpt_oss_without_quantization_has_bf16_experts() -> None:
    assert _read(REAL_20B | {"quantization_config": None}).expert_format is WeightFormat.BF16


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "llama"}, "model_type 'llama'; known are gpt2, gpt_oss, qwen3_moe"),
        ({}, "no model_type; known are gpt2, gpt_oss, qwen3_moe"),
        ({"model_type": ["gpt2"]}, "known are"),
        (_QWEN3_30B | {"mlp_only_layers": [0]}, "mixes kinds of layers"),
        (_QWEN3_30B | {"use_sliding_window": True}, "mixes kinds of layers"),
    ],
)
def test_an_unknown_model_exits_2(values: dict[str, Any], words: str) -> None:
    with pytest.raises(GptossError, match=r"config\.json") as raised:
        _read(values)
    assert raised.value.exit_status is ExitStatus.USAGE
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (_GPT2_XL | {"n_head": 24}, "n_embd 1600 is not divisible by the 24 heads"),
        (_GPT2_XL | {"n_ctx": 512}, "n_positions contradicts n_ctx"),
        (_GPT2_XL | {"n_layer": 0}, "n_layer should be a whole number from 1"),
        (_GPT2_XL | {"vocab_size": True}, "vocab_size should be a whole number"),
        (_QWEN3_30B | {"num_key_value_heads": 5}, "not a multiple of the 5 kv heads"),
        (_QWEN3_30B | {"num_experts_per_tok": 129}, "is 129, more than the 128 experts"),
        (_QWEN3_30B | {"head_dim": 127}, "head_dim should be even"),
        (_QWEN3_30B | {"hidden_size": None}, "hidden_size is missing"),
        (_QWEN3_30B | {"num_hidden_layers": 10**9}, "num_hidden_layers should be a whole number from 1 to 4,096"),
        (REAL_20B | {"experts_per_token": 5}, "num_experts_per_tok contradicts experts_per_token"),
        (REAL_20B | {"layer_types": ["full_attention"]}, "layer_types should list the kinds of 24 layers"),
        (REAL_20B | {"layer_types": [{}] * 24}, "layer_types has the unknown kind"),
        (REAL_20B | {"sliding_window": None}, "sliding_window is missing"),
        (REAL_20B | {"rope_scaling": "yarn"}, "rope_scaling should be an object"),
        (REAL_20B | {"rope_theta": "\x1b[2J"}, "rope_theta should be a number"),
        (REAL_20B | {"tie_word_embeddings": 1}, "tie_word_embeddings should be true or false"),
    ],
)
def test_a_contradictory_config_exits_4(values: dict[str, Any], words: str) -> None:
    with pytest.raises(GptossError) as raised:
        _read(values)
    assert raised.value.exit_status is ExitStatus.INTEGRITY
    assert words in str(raised.value)
    assert "\x1b" not in str(raised.value)


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.integers(), st.floats(), st.text(max_size=5),
    st.lists(st.sampled_from(["sliding_attention", "full_attention", 3]), max_size=3),
    st.dictionaries(st.sampled_from(["rope_type", "factor", "quant_method"]), st.sampled_from(["yarn", 0, 1e300])),
)  # fmt: skip


@given(
    st.sampled_from([_GPT2_XL, _QWEN3_30B, REAL_20B]), st.data(), st.integers(1, 4),
)  # fmt: skip
def test_any_config_is_read_or_refused(values: dict[str, Any], data: st.DataObject, changes: int) -> None:
    changed = dict(values)
    for _ in range(changes):
        changed[data.draw(st.sampled_from(sorted(values)))] = data.draw(_VALUES)
    try:
        model = _read(changed)
    except (UsageError, IntegrityError):
        return
    for figure in FIGURES:
        assert show(figure.compute(model, 4_096), figure.unit)
    assert len(list(rotations(model))) == (0 if model.learned_positions else model.head_dim // 2)


def test_models_are_found_by_name_and_alias() -> None:
    assert [find_architecture(model.name) for model in KNOWN] == list(KNOWN)
    assert find_architecture("20B") is GPT_OSS_20B
    assert find_architecture("qwen3-30b") is QWEN3_30B_A3B
    assert find_architecture("llama") is None


def test_every_known_architecture_names_its_source() -> None:
    assert all(model.source.startswith("https://") and model.released for model in KNOWN)
