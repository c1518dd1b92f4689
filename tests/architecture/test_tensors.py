"""The tensors of real layouts are sorted into parts whose sums equal the counts."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from gptoss_cli.architecture.config import read_architecture
from gptoss_cli.architecture.known import GPT2_XL, GPT_OSS_20B, KNOWN, Architecture
from gptoss_cli.architecture.tensors import (
    Part,
    PartSize,
    Tensor,
    contradictions,
    counted_parts,
    part_of,
    part_parameters,
    stored_parts,
)
from gptoss_cli.placement.model_config import published_config
from gptoss_cli.placement.tensor_specs import Layout, expected_tensors

_TINY: list[dict[str, Any]] = [
    {"model_type": "gpt2", "n_embd": 24, "n_head": 3, "n_layer": 2, "n_positions": 17, "vocab_size": 101},
    {
        "model_type": "qwen3_moe",
        "hidden_size": 24,
        "moe_intermediate_size": 10,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 14,
        "num_experts": 5,
        "num_experts_per_tok": 3,
        "vocab_size": 101,
        "max_position_embeddings": 64,
    },
    {
        "model_type": "gpt_oss",
        "hidden_size": 24,
        "intermediate_size": 10,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 14,
        "num_local_experts": 5,
        "num_experts_per_tok": 3,
        "vocab_size": 101,
        "sliding_window": 7,
        "max_position_embeddings": 64,
    },
]


@pytest.mark.parametrize("values", _TINY, ids=lambda values: values["model_type"])
def test_parts_of_a_model_that_transformers_saves_equal_the_counts(values: dict[str, Any]) -> None:
    config = AutoConfig.for_model(**values)
    with torch.device("meta"):
        reference = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    tensors = [Tensor(name, "F32", tuple(tensor.shape)) for name, tensor in reference.state_dict().items()]
    model = read_architecture(values, name="tiny", path="config.json")
    assert contradictions(model, stored_parts(tensors)) == []
    held = {size.part: size.parameters for size in stored_parts(tensors)}
    held.pop(Part.UNEMBEDDING if model.tied_embedding else Part.OTHER, None)
    assert held == part_parameters(model)


@pytest.mark.parametrize("layout", list(Layout))
def test_parts_of_both_gpt_oss_layouts_equal_the_counts(layout: Layout) -> None:
    specs = expected_tensors(published_config(layers=24, experts=32), layout)
    stored = stored_parts(Tensor(name, spec.dtype, spec.shape) for name, spec in specs.items())
    assert stored == counted_parts(GPT_OSS_20B)


@pytest.mark.parametrize("model", KNOWN, ids=lambda model: model.name)
def test_parts_are_all_parameters(model: Architecture) -> None:
    assert {size.part for size in counted_parts(model)} == set(part_parameters(model))


def test_a_contradiction_names_the_part_and_both_numbers() -> None:
    stored = [size for size in counted_parts(GPT2_XL) if size.part is not Part.POSITIONS]
    stored.append(PartSize(Part.OTHER, 7, 14, ("BF16",)))
    assert contradictions(GPT2_XL, stored) == [
        "positions: 0 parameters in the headers, 1,638,400 by config.json",
    ]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("transformer.h.3.attn.bias", Part.OTHER),
        ("h.3.attn.c_attn.bias", Part.ATTENTION),
        ("h.3.mlp.c_proj.weight", Part.EXPERTS),
        ("model.layers.1.mlp.experts.7.gate_proj.weight", Part.EXPERTS),
        ("model.layers.1.mlp.gate.weight", Part.ROUTER),
        ("model.layers.1.self_attn.q_norm.weight", Part.ATTENTION),
        ("block.0.attn.norm.scale", Part.NORMS),
        ("block.0.mlp.norm.scale", Part.NORMS),
        ("block.0.mlp.gate.bias", Part.ROUTER),
        ("vision.patches.weight", Part.OTHER),
    ],
)
def test_a_tensor_belongs_to_the_part_that_its_name_says(name: str, part: Part) -> None:
    assert part_of(name) is part
