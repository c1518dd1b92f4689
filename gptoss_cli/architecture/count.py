"""Parameters, bytes and floating point operations of an architecture, as exact integers.

Letters: C hidden, F intermediate, H query heads, K kv heads, D head dim, E experts, A active experts, L layers,
V vocabulary, P learned positions, W window, n context in tokens. A dense model counts as E = A = 1 without a router.
"""

import math

from gptoss_cli.architecture.known import Activation, Architecture, Norm, WeightFormat

BF16_BYTES = 2
MXFP4_BLOCK_VALUES = 32
MXFP4_BLOCK_BYTES = 17  # 16 bytes of 4-bit values and one of scale (OCP Microscaling Formats 1.0)


def expert_count(model: Architecture) -> int:
    """E, or 1 for the one feed-forward layer of a dense block."""
    return model.experts or 1


def active_expert_count(model: Architecture) -> int:
    """A, or 1 for the one feed-forward layer of a dense block."""
    return model.active_experts or 1


def matrices_per_expert(model: Architecture) -> int:
    """3 for a gated feed-forward layer (gate, up, down), 2 otherwise (up, down)."""
    return 3 if model.activation is Activation.SWIGLU else 2


def embedding_parameters(model: Architecture) -> int:
    """V·C."""
    return model.vocabulary_size * model.hidden_size


def position_parameters(model: Architecture) -> int:
    """P·C; 0 with RoPE."""
    return model.learned_positions * model.hidden_size


def unembedding_parameters(model: Architecture) -> int:
    """V·C; 0 if it is the embedding."""
    return 0 if model.tied_embedding else model.vocabulary_size * model.hidden_size


def attention_parameters(model: Architecture) -> int:
    """L·(2·C·H·D + 2·C·K·D), and per layer: biases 2·K·D + H·D + C, sinks H, q/k norms 2·D, where they exist."""
    query, key_value = model.query_heads * model.head_dim, model.kv_heads * model.head_dim
    per_layer = 2 * model.hidden_size * query + 2 * model.hidden_size * key_value
    if model.attention_bias:
        per_layer += query + 2 * key_value + model.hidden_size
    if model.sinks:
        per_layer += model.query_heads
    if model.qk_norm:
        per_layer += 2 * model.head_dim
    return model.layers * per_layer


def expert_weights(model: Architecture) -> int:
    """3·C·F with a gate, 2·C·F without: the matrices of one expert or feed-forward layer."""
    return feed_forward_weights(model.hidden_size, model.intermediate_size, gated=matrices_per_expert(model) == 3)


def feed_forward_weights(hidden_size: int, intermediate_size: int, *, gated: bool) -> int:
    """3·C·F with a gate, 2·C·F without."""
    return (3 if gated else 2) * hidden_size * intermediate_size


def expert_biases(model: Architecture) -> int:
    """2·F + C with a gate, F + C without; 0 without biases."""
    if not model.feed_forward_bias:
        return 0
    return (matrices_per_expert(model) - 1) * model.intermediate_size + model.hidden_size


def expert_parameters(model: Architecture) -> int:
    """Matrices and biases of one expert of one layer."""
    return expert_weights(model) + expert_biases(model)


def experts_parameters(model: Architecture) -> int:
    """L·E·expert."""
    return model.layers * expert_count(model) * expert_parameters(model)


def router_parameters(model: Architecture) -> int:
    """L·E·(C + 1 with a bias); 0 for a dense model."""
    return model.layers * model.experts * (model.hidden_size + model.router_bias)


def norm_parameters(model: Architecture) -> int:
    """(2·L + 1)·C, twice that for LayerNorm, which also has a bias."""
    return (2 * model.layers + 1) * model.hidden_size * (2 if model.norm is Norm.LAYER else 1)


def parameters(model: Architecture) -> int:
    """The sum of all parts. A tied embedding counts once."""
    return (
        embedding_parameters(model)
        + position_parameters(model)
        + unembedding_parameters(model)
        + attention_parameters(model)
        + experts_parameters(model)
        + router_parameters(model)
        + norm_parameters(model)
    )


def active_parameters(model: Architecture) -> int:
    """All parameters without L·(E - A) experts: those of a token, the embedding included (Qwen's convention)."""
    idle = expert_count(model) - active_expert_count(model)
    return parameters(model) - model.layers * idle * expert_parameters(model)


def active_parameters_without_embedding(model: Architecture) -> int:
    """Active parameters without an embedding that serves only as a look-up table (OpenAI's convention).

    "Unembedding parameters are counted towards active, but not embeddings" (arXiv:2508.10925, section 2). A tied
    embedding is the unembedding and stays.
    """
    return active_parameters(model) - (0 if model.tied_embedding else embedding_parameters(model))


def expert_combinations(model: Architecture) -> int:
    """E! / (A!·(E - A)!): the sets of experts that the router of one layer can choose."""
    return math.comb(expert_count(model), active_expert_count(model))


def width_to_depth(model: Architecture) -> float:
    """C / L."""
    return model.hidden_size / model.layers


def active_feed_forward_width(model: Architecture) -> int:
    """A·F: the intermediate channels that a token passes in one layer."""
    return active_expert_count(model) * model.intermediate_size


def kv_bytes_per_position(model: Architecture, value_bytes: int = BF16_BYTES) -> int:
    """2·K·D values in one layer: a key and a value for each kv head."""
    return 2 * model.kv_heads * model.head_dim * value_bytes


def kv_bytes_per_token_full(model: Architecture) -> int:
    """2·L·K·D·2 bytes: the cost of a token if every layer kept it."""
    return model.layers * kv_bytes_per_position(model)


def kv_bytes_per_token_multi_head(model: Architecture) -> int:
    """2·L·H·D·2 bytes: the cost of a token if every query head had keys and values of its own."""
    return kv_bytes_per_token_full(model) * model.query_heads // model.kv_heads


def kv_bytes_per_further_token(model: Architecture) -> int:
    """2·K·D·2 bytes for each layer without a window: what a context longer than the window costs per token."""
    return (model.layers - model.sliding_layers) * kv_bytes_per_position(model)


def kv_window_bytes(model: Architecture) -> int:
    """2·K·D·2 bytes·W for each sliding layer, however long the context."""
    return sum(model.windows) * kv_bytes_per_position(model)


def kv_cache_bytes(model: Architecture, context_tokens: int, value_bytes: int = BF16_BYTES) -> int:
    """2·K·D values for each cached position: n in a full layer, min(n, W) in a sliding one."""
    return visible_positions(model, context_tokens) * kv_bytes_per_position(model, value_bytes)


def kv_cache_bytes_without_windows(model: Architecture, context_tokens: int) -> int:
    """2·K·D·2 bytes·n·L: the cache if every layer were full."""
    return context_tokens * kv_bytes_per_token_full(model)


def visible_positions(model: Architecture, context_tokens: int) -> int:
    """Sum over the layers of min(n, W), or n for a full layer: positions that the last of n tokens attends to."""
    return sum(min(context_tokens, window) if window else context_tokens for window in model.windows)


def matrix_flops_per_token(model: Architecture) -> int:
    """2 (multiply, add) for each active parameter but the two look-up tables, embedding and positions.

    Biases and norm weights, less than 0.1 % of them, count as if they were in a matrix.
    """
    return 2 * (active_parameters_without_embedding(model) - position_parameters(model))


def attention_flops_per_token(model: Architecture, context_tokens: int) -> int:
    """4·H·D for each visible position: 2·H·D for the scores and 2·H·D for the weighted sum of values."""
    return 4 * model.query_heads * model.head_dim * visible_positions(model, context_tokens)


def bf16_bytes(model: Architecture) -> int:
    """2 bytes for each parameter."""
    return BF16_BYTES * parameters(model)


def expert_mxfp4_bytes(model: Architecture) -> int:
    """17 bytes for 32 weights: the matrices of one expert in MXFP4, without biases."""
    return expert_weights(model) * MXFP4_BLOCK_BYTES // MXFP4_BLOCK_VALUES


def packed_experts_bytes(model: Architecture) -> int:
    """L·E·17/32 bytes for each weight of an expert: all experts in MXFP4, without biases."""
    return model.layers * expert_count(model) * expert_mxfp4_bytes(model)


def mxfp4_bytes(model: Architecture) -> int:
    """Experts' matrices in MXFP4, all other parameters in bf16."""
    unpacked = parameters(model) - model.layers * expert_count(model) * expert_weights(model)
    return packed_experts_bytes(model) + BF16_BYTES * unpacked


def published_bytes(model: Architecture) -> int:
    """The tensors' bytes in the published format."""
    return mxfp4_bytes(model) if model.expert_format is WeightFormat.MXFP4 else bf16_bytes(model)


def bits_per_parameter(model: Architecture) -> float:
    """8 times the published bytes over all parameters."""
    return 8 * published_bytes(model) / parameters(model)


def bytes_per_decoded_token(model: Architecture) -> int:
    """Weights read for a token at batch 1, as published: all active ones but the look-up tables."""
    read = active_parameters_without_embedding(model) - position_parameters(model)
    if model.expert_format is not WeightFormat.MXFP4:
        return BF16_BYTES * read
    active = model.layers * active_expert_count(model)
    return active * expert_mxfp4_bytes(model) + BF16_BYTES * (read - active * expert_weights(model))
