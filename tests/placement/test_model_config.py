"""Reading config.json in every style; invalid files are rejected with one line."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptoss_cli.checkpoint.folder import load_json
from gptoss_cli.errors import IntegrityError, NotInstalledError
from gptoss_cli.placement.model_config import LayerKind, ModelConfig, Rope, Yarn, load_config
from tests.engine.checkpoints import FULL, REAL_20B, SLIDING, ConfigStyle, Shape, config_json, write_config

ORIGINAL_20B: dict[str, Any] = {
    "num_hidden_layers": 24,
    "num_experts": 32,
    "experts_per_token": 4,
    "vocab_size": 201_088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "swiglu_limit": 7.0,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "initial_context_length": 4096,
    "rope_theta": 150_000,
    "rope_scaling_factor": 32.0,
    "rope_ntk_alpha": 1,
    "rope_ntk_beta": 32,
}


def load(folder: Path, config: Any) -> ModelConfig:
    return load_config(write_config(folder, config))


def rejection(path: Path) -> str:
    """Return the one line with which a config.json is rejected."""
    with pytest.raises(IntegrityError) as caught:
        load_config(path)
    line = str(caught.value)
    assert line.isprintable()
    assert line.startswith(str(path))
    return line


def test_the_published_20b_config_is_read(tmp_path: Path) -> None:
    config = load(tmp_path, REAL_20B)
    assert config.layers == 24
    assert config.layer_kinds[:2] == (LayerKind.SLIDING, LayerKind.FULL)
    assert (config.query_heads, config.kv_heads, config.experts, config.active_experts) == (64, 8, 32, 4)
    assert config.rope == Rope(150_000.0, Yarn(32.0, 32.0, 1.0, 4096, False, 0.1 * math.log(32) + 1))


def test_the_original_config_equals_the_published_one(tmp_path: Path) -> None:
    assert load(tmp_path, ORIGINAL_20B) == load(tmp_path, REAL_20B)


def test_both_transformers_styles_are_equal(tmp_path: Path) -> None:
    shape = Shape()
    published = load(tmp_path, config_json(shape, ConfigStyle.PUBLISHED))
    assert load(tmp_path, config_json(shape, ConfigStyle.TRANSFORMERS_5)) == published
    assert published.rope.theta == shape.theta


def test_layer_types_decide_the_kinds_of_layers(tmp_path: Path) -> None:
    kinds = load(tmp_path, REAL_20B | {"num_hidden_layers": 3, "layer_types": [FULL, FULL, SLIDING]}).layer_kinds
    assert kinds == (LayerKind.FULL, LayerKind.FULL, LayerKind.SLIDING)


def test_without_layer_types_layers_alternate_from_sliding(tmp_path: Path) -> None:
    assert load(tmp_path, REAL_20B | {"layer_types": None}) == load(tmp_path, REAL_20B)


def test_a_window_is_not_needed_without_sliding_layers(tmp_path: Path) -> None:
    config = REAL_20B | {"num_hidden_layers": 1, "layer_types": [FULL], "sliding_window": None}
    assert load(tmp_path, config).sliding_window == 0


def test_truncate_is_true_by_default(tmp_path: Path) -> None:
    without = {key: value for key, value in REAL_20B["rope_scaling"].items() if key != "truncate"}
    yarn = load(tmp_path, REAL_20B | {"rope_scaling": without}).rope.yarn
    assert yarn is not None
    assert yarn.truncate


def test_default_rope_is_yarn_off(tmp_path: Path) -> None:
    assert load(tmp_path, REAL_20B | {"rope_scaling": {"rope_type": "default"}}).rope == Rope(150_000.0, None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", -1),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", 10**12),
        ("num_hidden_layers", "24"),
        ("num_hidden_layers", 24.0),
        ("num_hidden_layers", True),
        ("num_hidden_layers", None),
        ("num_local_experts", 10**9),
        ("num_experts_per_tok", 5),
        ("hidden_size", 2881),
        ("hidden_size", None),
        ("intermediate_size", 48),
        ("num_attention_heads", 63),
        ("num_key_value_heads", 0),
        ("head_dim", 63),
        ("vocab_size", []),
        ("sliding_window", None),
        ("sliding_window", -128),
        ("layer_types", [SLIDING]),
        ("layer_types", "sliding_attention"),
        ("layer_types", [SLIDING, "\x1b[31mlinear"] * 12),
        ("layer_types", [[SLIDING]] * 24),
        ("max_position_embeddings", 2**40),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", 10**400),
        ("swiglu_limit", "7"),
        ("swiglu_limit", -7.0),
        ("swiglu_alpha", 1.5),
        ("rope_theta", 1),
        ("rope_theta", None),
        ("rope_scaling", "yarn"),
        ("tie_word_embeddings", True),
        ("attention_bias", False),
        ("hidden_act", "gelu"),
        ("model_type", "llama"),
        ("quantization_config", "mxfp4"),
    ],
)
def test_an_invalid_value_is_rejected_with_its_key(tmp_path: Path, key: str, value: object) -> None:
    assert key in rejection(write_config(tmp_path, REAL_20B | {key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope_type", "llama3"),
        ("rope_type", None),
        ("factor", 0),
        ("factor", None),
        ("beta_fast", -1),
        ("original_max_position_embeddings", None),
        ("truncate", 0),
        ("attention_factor", "1"),
        ("partial_rotary_factor", 0.5),
        ("mscale", 1.0),
    ],
)
@pytest.mark.parametrize("section", ["rope_scaling", "rope_parameters"])
def test_an_invalid_rope_setting_is_rejected_with_its_key(
    tmp_path: Path, section: str, key: str, value: object
) -> None:
    rope = REAL_20B["rope_scaling"] | {key: value}
    config = REAL_20B | {"rope_scaling": None} | {section: rope}
    assert f"{section}.{key}" in rejection(write_config(tmp_path, config))


def test_missing_rope_settings_are_rejected(tmp_path: Path) -> None:
    assert "rope_parameters" in rejection(write_config(tmp_path, REAL_20B | {"rope_scaling": None}))


def test_synonyms_that_disagree_are_rejected(tmp_path: Path) -> None:
    line = rejection(write_config(tmp_path, REAL_20B | {"experts_per_token": 2}))
    assert "num_experts_per_tok contradicts experts_per_token" in line


def test_an_unknown_quantization_is_rejected_by_name(tmp_path: Path) -> None:
    line = rejection(write_config(tmp_path, REAL_20B | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    assert "quantization_config.quant_method is 'bitsandbytes'" in line


def test_a_config_need_not_name_the_quantization(tmp_path: Path) -> None:
    published = load_config(write_config(tmp_path, REAL_20B))
    for quantization in (None, {"quant_method": "mxfp4", "dequantize": True}):
        changed = REAL_20B | {"quantization_config": quantization, "dtype": "bfloat16", "torch_dtype": "bfloat16"}
        assert load_config(write_config(tmp_path, changed)) == published


@pytest.mark.parametrize("key", sorted(ORIGINAL_20B.keys() - {"swiglu_limit", "rope_scaling_factor"}))
def test_a_key_missing_from_the_original_config_is_named(tmp_path: Path, key: str) -> None:
    assert key in rejection(write_config(tmp_path, {k: v for k, v in ORIGINAL_20B.items() if k != key}))


@pytest.mark.parametrize(
    "write",
    [
        lambda good: good[:-1],
        lambda good: b"",
        lambda good: b"\xef\xbb\xbf" + good,
        lambda good: good.decode().encode("utf-16"),
        lambda good: good.replace(b"24", b"NaN", 1),
        lambda good: good.replace(b"24", b"-Infinity", 1),
        lambda good: good.replace(b"24", b"9" * 5000, 1),
        lambda good: b"[" * 100_000,
        lambda good: b'{"a":' * 100_000,
        lambda good: b"[]",
        lambda good: b"null",
        lambda good: good[:-1] + b', "head_dim": 128}',
        lambda good: good + b" " * 1_000_001,
        lambda good: b'{"\x1b]0;title\x07": 1, "\x1b]0;title\x07": 2}',
        lambda good: b"\x80\x1b[31m",
    ],
)
def test_a_file_that_is_not_plain_json_is_rejected(tmp_path: Path, write: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(write(json.dumps(REAL_20B).encode()))
    rejection(path)


def test_a_missing_config_is_an_incomplete_model(tmp_path: Path) -> None:
    with pytest.raises(NotInstalledError, match=r"config\.json is missing"):
        load_config(tmp_path / "config.json")


def test_a_folder_instead_of_a_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="cannot be read"):
        load_json(tmp_path)
