"""The tensors of a complete checkpoint, as data: names, shapes and dtypes in both layouts."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from gptoss_cli.checkpoint.header import TensorSpec
from gptoss_cli.placement.model_config import BLOCK_BYTES, BLOCK_VALUES, ModelConfig


class Layout(StrEnum):
    """The two naming schemes of checkpoints."""

    HUGGING_FACE = "Hugging Face"
    ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class Names:
    """A layout's names of the tensors, in which `{}` stands for the index of the layer.

    The original layout has one tensor for `qkv`, with the rows of q, k and v in this order. The Hugging Face layout has
    three. MXFP4 weights are two tensors: `gate_up` or `down` followed by `blocks`, and by `scales`.
    """

    embedding: str
    final_norm: str
    unembedding: str
    attention_norm: str
    qkv: tuple[str, ...]
    output: str
    sinks: str
    mlp_norm: str
    router: str
    gate_up: str
    gate_up_bias: str
    down: str
    down_bias: str
    blocks: str
    scales: str


_NAMES = {
    Layout.HUGGING_FACE: Names(
        embedding="model.embed_tokens.weight",
        final_norm="model.norm.weight",
        unembedding="lm_head.weight",
        attention_norm="model.layers.{}.input_layernorm.weight",
        qkv=tuple(f"model.layers.{{}}.self_attn.{part}_proj" for part in "qkv"),
        output="model.layers.{}.self_attn.o_proj",
        sinks="model.layers.{}.self_attn.sinks",
        mlp_norm="model.layers.{}.post_attention_layernorm.weight",
        router="model.layers.{}.mlp.router",
        gate_up="model.layers.{}.mlp.experts.gate_up_proj",
        gate_up_bias="model.layers.{}.mlp.experts.gate_up_proj_bias",
        down="model.layers.{}.mlp.experts.down_proj",
        down_bias="model.layers.{}.mlp.experts.down_proj_bias",
        blocks="_blocks",
        scales="_scales",
    ),
    Layout.ORIGINAL: Names(
        embedding="embedding.weight",
        final_norm="norm.scale",
        unembedding="unembedding.weight",
        attention_norm="block.{}.attn.norm.scale",
        qkv=("block.{}.attn.qkv",),
        output="block.{}.attn.out",
        sinks="block.{}.attn.sinks",
        mlp_norm="block.{}.mlp.norm.scale",
        router="block.{}.mlp.gate",
        gate_up="block.{}.mlp.mlp1_weight",
        gate_up_bias="block.{}.mlp.mlp1_bias",
        down="block.{}.mlp.mlp2_weight",
        down_bias="block.{}.mlp.mlp2_bias",
        blocks=".blocks",
        scales=".scales",
    ),
}


def names(layout: Layout) -> Names:
    """Return the tensor names of a layout."""
    return _NAMES[layout]


def expected_tensors(config: ModelConfig, layout: Layout) -> dict[str, TensorSpec]:
    """Return all tensors by name (sources: the index of gpt-oss-20b, openai/gpt-oss gpt_oss/torch/weights.py)."""
    name = names(layout)
    tensors = {
        name.embedding: _bf16(config.vocabulary_size, config.hidden_size),
        name.final_norm: _bf16(config.hidden_size),
        name.unembedding: _bf16(config.vocabulary_size, config.hidden_size),
    }
    for layer in range(config.layers):
        tensors.update((key.format(layer), spec) for key, spec in _layer(config, name))
    return tensors


def _layer(config: ModelConfig, name: Names) -> Iterator[tuple[str, TensorSpec]]:
    hidden, experts = config.hidden_size, config.experts
    query, key_value = config.query_heads * config.head_dim, config.kv_heads * config.head_dim
    yield name.attention_norm, _bf16(hidden)
    rows = (query, key_value, key_value) if len(name.qkv) == 3 else (query + 2 * key_value,)
    for part, part_rows in zip(name.qkv, rows, strict=True):
        yield from _linear(part, part_rows, hidden)
    yield from _linear(name.output, hidden, query)
    yield name.sinks, _bf16(config.query_heads)
    yield name.mlp_norm, _bf16(hidden)
    yield from _linear(name.router, experts, hidden)
    for weight, bias, rows_out, columns in (
        (name.gate_up, name.gate_up_bias, 2 * config.intermediate_size, hidden),
        (name.down, name.down_bias, hidden, config.intermediate_size),
    ):
        blocks = columns // BLOCK_VALUES
        yield weight + name.blocks, TensorSpec((experts, rows_out, blocks, BLOCK_BYTES), "U8")
        yield weight + name.scales, TensorSpec((experts, rows_out, blocks), "U8")
        yield bias, _bf16(experts, rows_out)


def _linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, TensorSpec]]:
    yield f"{name}.weight", _bf16(rows, columns)
    yield f"{name}.bias", _bf16(rows)


def _bf16(*shape: int) -> TensorSpec:
    return TensorSpec(shape, "BF16")
