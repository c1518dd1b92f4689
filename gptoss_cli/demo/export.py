"""Writes a trained state as the file that ships: `python -m gptoss_cli.demo.export STATE data/demo.safetensors`."""

import argparse
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gptoss_cli.demo.layout import TABLES, VOCABULARY_SIZE
from gptoss_cli.demo.mxfp4 import pack
from gptoss_cli.demo.network import LANE_IN, LANE_OUT, Shape
from gptoss_cli.demo.vocabulary import trained_lane
from gptoss_cli.engine.kernels.reference import dequantize

# Logits are so many times what training made of them. This model is so small that its second choice is a wrong answer
# and not another way to put a right one, and at temperature 1 it would often be made.
SHARPNESS = 4.0

# Parameters of layer {} in the trained state, and what they are called in a checkpoint's layer.
_LAYER = {
    "attention.{}.norm": "input_layernorm.weight",
    "attention.{}.sinks": "self_attn.sinks",
    "attention.{}.out": "self_attn.o_proj.weight",
    "attention.{}.out_bias": "self_attn.o_proj.bias",
    "experts.{}.norm": "post_attention_layernorm.weight",
    "experts.{}.router": "mlp.router.weight",
    "experts.{}.router_bias": "mlp.router.bias",
}
_EXPERTS = {"gate_up": "gate_up_proj", "down": "down_proj"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("state", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    export(arguments.state, arguments.out)


def export(state_file: Path, out: Path) -> None:
    """Experts become MXFP4, everything else bfloat16, under the names of the Hugging Face layout."""
    saved = torch.load(state_file, weights_only=True)
    shape, state = Shape(**saved["shape"]), saved["state"]
    tensors = {
        "model.norm.weight": SHARPNESS * state["norm"],
        "trained_ids": torch.tensor(saved["ids"], dtype=torch.int32),
    }
    metadata = {
        "copy_size": str(shape.copy_size),
        "config": json.dumps(config(shape), indent=2),
        "generation_config": json.dumps(GENERATION, indent=2),
    }
    for name, table, scale in zip(TABLES, ("embedding", "unembedding"), (LANE_IN, LANE_OUT), strict=True):
        tensors[name] = state[table][:, : -shape.copy_size]  # the lane is known from the ids
        tensors[f"{name}.base"] = state[f"{table}_base"]
        metadata[f"{name}.scale"] = repr(scale)
    for n in range(shape.num_hidden_layers):
        tensors.update(_layer(shape, state, n))
    stored = {
        k: v.contiguous() if v.dtype in (torch.uint8, torch.int32) else v.bfloat16().contiguous()
        for k, v in tensors.items()
    }
    save_file(stored, out, metadata)


def _layer(shape: Shape, state: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    attention, experts, prefix = f"attention.{n}.", f"experts.{n}.", f"model.layers.{n}."
    made = {theirs: state[ours.format(n)] for ours, theirs in _LAYER.items()}
    kv = shape.num_key_value_heads * shape.head_dim
    ends = (heads := shape.num_attention_heads * shape.head_dim, heads + kv)
    for part, weight, bias in zip(
        "qkv",
        state[attention + "qkv"].tensor_split(ends),
        state[attention + "qkv_bias"].tensor_split(ends),
        strict=True,
    ):
        made |= {f"self_attn.{part}_proj.weight": weight, f"self_attn.{part}_proj.bias": bias}
    for ours, theirs in _EXPERTS.items():
        blocks, scales = pack(state[experts + ours])
        made |= {
            f"mlp.experts.{theirs}_blocks": blocks,
            f"mlp.experts.{theirs}_scales": scales,
            f"mlp.experts.{theirs}_bias": state[experts + ours + "_bias"],
        }
    return {prefix + name: tensor for name, tensor in made.items()}


def restore(file: Path) -> dict[str, Any]:
    """What `export` wrote as a state to go on training from: `shape`, `ids` and `state`, as demo.train saves them.

    Rounding to bfloat16 and MXFP4 stays; exported again it gives the same tensors.
    """
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (no mapping)
    shape, ids = _shape(json.loads(metadata["config"]), int(metadata["copy_size"])), tensors["trained_ids"].tolist()
    lane = torch.from_numpy(trained_lane(np.array(ids), shape.copy_size))
    state = {"norm": tensors["model.norm.weight"].float() / SHARPNESS}
    for name, table, scale in zip(TABLES, ("embedding", "unembedding"), (LANE_IN, LANE_OUT), strict=True):
        state[table] = torch.cat((tensors[name].float(), scale * lane[: len(tensors[name])]), -1)
        state[f"{table}_base"] = tensors[f"{name}.base"].float()
    for n in range(shape.num_hidden_layers):
        state |= _restored_layer(tensors, n)
    # The values of the heads that copy are the lane, times this.
    state["lane_gain"] = state[f"attention.{shape.num_hidden_layers - 1}.qkv"][-1, -1].clone()
    return {"shape": asdict(shape), "ids": ids, "state": state}


def _shape(config: dict[str, Any], copy_size: int) -> Shape:
    scaling = config["rope_scaling"]
    named = {f.name: config[f.name] for f in fields(Shape) if f.name in config}
    return Shape(
        **named,
        copy_size=copy_size,
        original_context=config["initial_context_length"],
        yarn_factor=scaling["factor"],
        beta_fast=scaling["beta_fast"],
        beta_slow=scaling["beta_slow"],
    )


def _restored_layer(tensors: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    layer = {name: tensors[f"model.layers.{n}.{name}"] for name in _LAYER.values()}
    made = {ours.format(n): layer[theirs].float() for ours, theirs in _LAYER.items()}
    for kind in ("weight", "bias"):
        parts = [tensors[f"model.layers.{n}.self_attn.{part}_proj.{kind}"].float() for part in "qkv"]
        made[f"attention.{n}.qkv" + ("_bias" if kind == "bias" else "")] = torch.cat(parts)
    for ours, theirs in _EXPERTS.items():
        blocks, scales = (tensors[f"model.layers.{n}.mlp.experts.{theirs}_{part}"] for part in ("blocks", "scales"))
        made[f"experts.{n}.{ours}"] = dequantize(blocks, scales, torch.float32)
        made[f"experts.{n}.{ours}_bias"] = tensors[f"model.layers.{n}.mlp.experts.{theirs}_bias"].float()
    return made


GENERATION = {
    "bos_token_id": 199998,
    "do_sample": True,
    "eos_token_id": [200002, 199999, 200012],
    "pad_token_id": 199999,
}


def config(shape: Shape) -> dict[str, Any]:
    """config.json of the demo model."""
    layers = shape.num_hidden_layers
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "experts_per_token": shape.num_experts_per_tok,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initial_context_length": shape.original_context,
        "intermediate_size": shape.intermediate_size,
        "layer_types": [("sliding_attention", "full_attention")[n % 2] for n in range(layers)],
        "max_position_embeddings": int(shape.original_context * shape.yarn_factor),
        "num_attention_heads": shape.num_attention_heads,
        "num_experts_per_tok": shape.num_experts_per_tok,
        "num_hidden_layers": layers,
        "num_key_value_heads": shape.num_key_value_heads,
        "num_local_experts": shape.num_local_experts,
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        },
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": shape.yarn_factor,
            "beta_fast": shape.beta_fast,
            "beta_slow": shape.beta_slow,
            "original_max_position_embeddings": shape.original_context,
            "truncate": False,
        },
        "rope_theta": shape.rope_theta,
        "sliding_window": shape.sliding_window,
        "swiglu_limit": shape.swiglu_limit,
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY_SIZE,
    }


if __name__ == "__main__":
    main()
