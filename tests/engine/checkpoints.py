"""Write small random gpt-oss checkpoints, in both layouts and all config styles, with numpy only.

No two dimensions of a `Shape` are equal, and no constant is that of the real models: tests find swapped axes and
hard-coded numbers. The weights are scaled so that scores spread, sinks matter and clamps are reached.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptoss_cli.files import safetensors_header

Array = NDArray[Any]
SLIDING, FULL = "sliding_attention", "full_attention"

# The config.json that gpt-oss-20b was published with.
REAL_20B: dict[str, Any] = {
    "model_type": "gpt_oss",
    "num_hidden_layers": 24,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "experts_per_token": 4,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 201_088,
    "sliding_window": 128,
    "layer_types": [SLIDING, FULL] * 12,
    "max_position_embeddings": 131_072,
    "initial_context_length": 4096,
    "rms_norm_eps": 1e-05,
    "rope_theta": 150_000,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
    "swiglu_limit": 7.0,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "mxfp4"},
}


class ConfigStyle(StrEnum):
    """The three styles of config.json."""

    PUBLISHED = "rope_scaling"
    TRANSFORMERS_5 = "rope_parameters"
    ORIGINAL = "original"


@dataclass(frozen=True)
class Shape:
    """The dimensions and constants of a checkpoint. `yarn` None means no YaRN."""

    hidden: int = 96
    intermediate: int = 160
    kv_heads: int = 2
    queries_per_head: int = 7
    head_dim: int = 22
    experts: int = 6
    active: int = 4
    vocabulary: int = 331
    layer_types: tuple[str, ...] = (SLIDING, FULL, SLIDING)
    window: int = 11
    limit: float = 1.75
    theta: float = 9_500.0
    eps: float = 3e-3
    context: int = 4_000
    yarn: Mapping[str, Any] | None = field(
        default_factory=lambda: {
            "factor": 13.0,
            "beta_fast": 5.0,
            "beta_slow": 0.75,
            "original_max_position_embeddings": 60,
            "truncate": False,
        }
    )

    def __post_init__(self) -> None:
        heads = self.kv_heads * self.queries_per_head
        dimensions = [
            *(self.hidden, self.intermediate, 2 * self.intermediate, self.hidden // 32, self.intermediate // 32, 16),
            *(heads, self.kv_heads, self.queries_per_head, self.head_dim, heads * self.head_dim),
            *(self.kv_heads * self.head_dim, self.experts, self.active, self.vocabulary),
        ]
        assert len(set(dimensions)) == len(dimensions), "two dimensions are equal"

    @property
    def heads(self) -> int:
        return self.kv_heads * self.queries_per_head


def write_checkpoint(
    folder: Path, shape: Shape, *, seed: int = 0, style: ConfigStyle = ConfigStyle.PUBLISHED, shards: int = 1
) -> Path:
    """Write a checkpoint of `shape` with random weights. Style ORIGINAL also has the original layout."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = random_tensors(shape, seed)
    if style is ConfigStyle.ORIGINAL:
        tensors = original_layout(shape, tensors)
    write_config(folder, config_json(shape, style))
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
    else:
        _write_shards(folder, tensors, shards)
    return folder


def write_config(folder: Path, config: Mapping[str, Any]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def config_json(shape: Shape, style: ConfigStyle = ConfigStyle.PUBLISHED) -> dict[str, Any]:
    """Return the config.json of `shape`."""
    if style is ConfigStyle.ORIGINAL:
        return _original_config(shape)
    rope = {"rope_type": "default"} if shape.yarn is None else {"rope_type": "yarn", **shape.yarn}
    config = {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "num_hidden_layers": len(shape.layer_types),
        "num_local_experts": shape.experts,
        "num_experts_per_tok": shape.active,
        "experts_per_token": shape.active,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary,
        "sliding_window": shape.window,
        "layer_types": list(shape.layer_types),
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.eps,
        "swiglu_limit": shape.limit,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "pad_token_id": None,
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
    }
    if style is ConfigStyle.PUBLISHED:
        return config | {"rope_scaling": rope, "rope_theta": shape.theta}
    return config | {"rope_parameters": rope | {"rope_theta": shape.theta}}


def _original_config(shape: Shape) -> dict[str, Any]:
    yarn = shape.yarn
    assert yarn is not None
    assert not yarn["truncate"]
    return {
        "num_hidden_layers": len(shape.layer_types),
        "num_experts": shape.experts,
        "experts_per_token": shape.active,
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "swiglu_limit": shape.limit,
        "head_dim": shape.head_dim,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "sliding_window": shape.window,
        "initial_context_length": yarn["original_max_position_embeddings"],
        "rope_theta": shape.theta,
        "rope_scaling_factor": yarn["factor"],
        "rope_ntk_alpha": yarn["beta_slow"],
        "rope_ntk_beta": yarn["beta_fast"],
    }


def random_tensors(shape: Shape, seed: int) -> dict[str, Array]:
    """Return weights in the Hugging Face layout; bf16 as uint16 bit patterns."""
    return dict(_tensors(shape, np.random.default_rng(seed)))


def _tensors(shape: Shape, random: np.random.Generator) -> Iterator[tuple[str, Array]]:
    def normal(*size: int, std: float = 1.0, mean: float = 0.0) -> Array:
        return bf16(random.normal(mean, std, size))

    hidden, query, key_value = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", normal(shape.vocabulary, hidden)
    yield "model.norm.weight", normal(hidden, std=0.3, mean=1.0)
    yield "lm_head.weight", normal(shape.vocabulary, hidden, std=3 / math.sqrt(hidden))
    for layer in range(len(shape.layer_types)):
        name = f"model.layers.{layer}"
        yield f"{name}.input_layernorm.weight", normal(hidden, std=0.3, mean=1.0)
        yield f"{name}.post_attention_layernorm.weight", normal(hidden, std=0.3, mean=1.0)
        for part, rows in (("q", query), ("k", key_value), ("v", key_value)):
            yield f"{name}.self_attn.{part}_proj.weight", normal(rows, hidden, std=1.3 / math.sqrt(hidden))
            yield f"{name}.self_attn.{part}_proj.bias", normal(rows, std=0.5)
        yield f"{name}.self_attn.o_proj.weight", normal(hidden, query, std=1.5 / math.sqrt(query))
        yield f"{name}.self_attn.o_proj.bias", normal(hidden, std=0.2)
        yield f"{name}.self_attn.sinks", normal(shape.heads, std=1.5, mean=1.5)
        yield f"{name}.mlp.router.weight", normal(shape.experts, hidden, std=1.5 / math.sqrt(hidden))
        yield f"{name}.mlp.router.bias", normal(shape.experts, std=0.5)
        for part, rows, columns, scale in (
            ("gate_up_proj", 2 * shape.intermediate, hidden, 122),
            ("down_proj", hidden, shape.intermediate, 120),
        ):
            blocks = (shape.experts, rows, columns // 32)
            yield f"{name}.mlp.experts.{part}_blocks", random.integers(0, 256, (*blocks, 16), np.uint8)
            yield f"{name}.mlp.experts.{part}_scales", random.integers(scale - 1, scale + 2, blocks, np.uint8)
            yield f"{name}.mlp.experts.{part}_bias", normal(shape.experts, rows, std=0.5)


_ORIGINAL_NAMES = {
    "input_layernorm.weight": "attn.norm.scale",
    "self_attn.sinks": "attn.sinks",
    "self_attn.o_proj.weight": "attn.out.weight",
    "self_attn.o_proj.bias": "attn.out.bias",
    "post_attention_layernorm.weight": "mlp.norm.scale",
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.router.bias": "mlp.gate.bias",
    "mlp.experts.gate_up_proj_blocks": "mlp.mlp1_weight.blocks",
    "mlp.experts.gate_up_proj_scales": "mlp.mlp1_weight.scales",
    "mlp.experts.gate_up_proj_bias": "mlp.mlp1_bias",
    "mlp.experts.down_proj_blocks": "mlp.mlp2_weight.blocks",
    "mlp.experts.down_proj_scales": "mlp.mlp2_weight.scales",
    "mlp.experts.down_proj_bias": "mlp.mlp2_bias",
}


def original_layout(shape: Shape, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return the same weights with the names and shapes of OpenAI's `original/` files."""
    renamed = {
        "embedding.weight": tensors["model.embed_tokens.weight"],
        "norm.scale": tensors["model.norm.weight"],
        "unembedding.weight": tensors["lm_head.weight"],
    }
    for layer in range(len(shape.layer_types)):
        old, new = f"model.layers.{layer}", f"block.{layer}"
        renamed |= {f"{new}.{theirs}": tensors[f"{old}.{ours}"] for ours, theirs in _ORIGINAL_NAMES.items()}
        for kind in ("weight", "bias"):
            parts = [tensors[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            renamed[f"{new}.attn.qkv.{kind}"] = np.concatenate(parts)
    return renamed


def bf16(values: Array) -> Array:
    """Return the bit patterns (uint16) of `values` truncated to bfloat16."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


_DTYPE_NAMES = {"uint16": "BF16", "uint8": "U8", "float32": "F32", "float16": "F16"}


def write_safetensors(path: Path, tensors: Mapping[str, Array]) -> Path:
    """Write a safetensors file. uint16 is written as BF16."""
    header = {name: (_DTYPE_NAMES[array.dtype.name], array.shape) for name, array in tensors.items()}
    with path.open("wb") as file:
        file.write(safetensors_header(header))
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).tobytes())
    return path


def _write_shards(folder: Path, tensors: Mapping[str, Array], shards: int) -> None:
    """Write shards that are named like those of gpt-oss-20b: from 0 on, "of" the last index."""
    shard_of: dict[str, str] = {}
    for shard in range(shards):
        file_name = f"model-{shard:05d}-of-{shards - 1:05d}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[shard::shards]}
        write_safetensors(folder / file_name, part)
        shard_of |= dict.fromkeys(part, file_name)
    write_index(folder, shard_of)


def write_index(folder: Path, shard_of: Mapping[str, Any]) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": dict(shard_of)}), encoding="utf-8")
    return path
