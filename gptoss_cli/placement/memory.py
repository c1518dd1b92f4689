"""The memory that a model needs and the bytes that it reads, computed from its config alone."""

import math
from dataclasses import dataclass

from gptoss_cli.checkpoint.header import TensorSpec
from gptoss_cli.placement.model_config import BLOCK_VALUES, LayerKind, ModelConfig
from gptoss_cli.placement.tensor_specs import Layout, expected_tensors, names
from gptoss_cli.settings import Dtype

# Two buffers on the GPU through which prefill copies the experts of host memory. Ten of gpt-oss's experts fit in each.
STAGING_BYTES = 256 << 20
_TENSOR_BYTES = {"BF16": 2, "U8": 1}
_CACHE_BYTES = {Dtype.BFLOAT16: 2, Dtype.FLOAT32: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMemory:
    """Sizes of a model's parts. Weights are as in the files, without headers.

    `dense_bytes` is everything that each token reads except experts. `embedding_bytes` is not part of it, since a token
    reads one row of the embedding. `int8_dense_bytes` is `dense_bytes` with 8-bit weights in attention and unembedding.
    `experts` counts those of all layers; one has `expert_bytes`, biases included; a token reads `active` of them.
    `token_bytes` is what a cached position needs in the full-attention layers, `ring_bytes` the size of the ring caches
    of all sliding layers. A GPU needs `chunk_token_bytes` for each token of a prompt that it reads at once.
    """

    embedding_bytes: int
    dense_bytes: int
    int8_dense_bytes: int
    expert_bytes: int
    experts: int
    active: int
    token_bytes: int
    ring_bytes: int
    chunk_token_bytes: int
    max_context_tokens: int

    @property
    def experts_bytes(self) -> int:
        """The size of all experts of all layers."""
        return self.experts * self.expert_bytes

    @property
    def active_bytes(self) -> int:
        """The bytes of the experts that one token reads."""
        return self.active * self.expert_bytes

    def cache_bytes(self, context_tokens: int) -> int:
        """Return the size of the KV cache. The part of the sliding layers does not grow with the context."""
        return context_tokens * self.token_bytes + self.ring_bytes


def model_memory(config: ModelConfig, dtype: Dtype = Dtype.BFLOAT16) -> ModelMemory:
    """Return the sizes of a model with `config`, and with a KV cache in `dtype`."""
    name = names(Layout.HUGGING_FACE)
    tensors = expected_tensors(config, Layout.HUGGING_FACE)
    expert_names = (name.gate_up, name.gate_up_bias, name.down, name.down_bias)
    prefixes = tuple(key.format(layer) for key in expert_names for layer in range(config.layers))
    total = sum(map(_bytes, tensors.values()))
    experts = sum(_bytes(spec) for key, spec in tensors.items() if key.startswith(prefixes))
    embedding = _bytes(tensors[name.embedding])
    attention = (f"{key}.weight".format(layer) for key in (*name.qkv, name.output) for layer in range(config.layers))
    saved = sum(_bytes(tensors[key]) - _int8_bytes(tensors[key]) for key in (*attention, name.unembedding))
    position = 2 * config.kv_heads * config.head_dim * _CACHE_BYTES[dtype]  # keys and values of one layer
    sliding = config.layer_kinds.count(LayerKind.SLIDING)
    return ModelMemory(
        embedding_bytes=embedding,
        dense_bytes=total - experts - embedding,
        int8_dense_bytes=total - experts - embedding - saved,
        expert_bytes=experts // (config.layers * config.experts),
        experts=config.layers * config.experts,
        active=config.layers * config.active_experts,
        token_bytes=(config.layers - sliding) * position,
        ring_bytes=sliding * config.sliding_window * position,
        chunk_token_bytes=_chunk_token_bytes(config, dtype),
        max_context_tokens=config.max_context_tokens,
    )


def _chunk_token_bytes(config: ModelConfig, dtype: Dtype) -> int:
    """Return what a token needs while its experts run: five float32 vectors, the outputs, and inputs and hidden values.

    That is more than attention needs. A fifth of it is added for the gaps that an allocator leaves.
    """
    floats = 4 * config.hidden_size * (5 + config.active_experts)
    inputs = _CACHE_BYTES[dtype] * (config.hidden_size + config.active_experts * config.intermediate_size)
    return (floats + inputs) * 6 // 5


def _int8_bytes(spec: TensorSpec) -> int:
    """Return the size of a matrix with one byte per weight and a bf16 factor per block of a row."""
    rows, columns = spec.shape
    return rows * math.ceil(columns / BLOCK_VALUES) * (BLOCK_VALUES + _TENSOR_BYTES["BF16"])


def _bytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * _TENSOR_BYTES[spec.dtype]
