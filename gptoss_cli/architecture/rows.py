"""The rows of `compare`: every figure, with the formula that its value comes from.

A formula is a Python expression over the letters of formulas.py and over keys of other figures. The tests evaluate each
one and compare it with the function in count.py.
"""

from collections.abc import Callable

from gptoss_cli.architecture import count
from gptoss_cli.architecture.activations import activation_table
from gptoss_cli.architecture.figures import Figure, Unit, Value
from gptoss_cli.architecture.known import Architecture, WeightFormat
from gptoss_cli.architecture.published import published_active
from gptoss_cli.settings import Group


def _of(function: Callable[[Architecture], Value]) -> Callable[[Architecture, int], Value]:
    """Return `function` for a row that does not depend on the context."""
    return lambda model, context_tokens: function(model)


def _with_experts(function: Callable[[Architecture], Value]) -> Callable[[Architecture, int], Value]:
    return lambda model, context_tokens: function(model) if model.experts else None


def _within_context(function: Callable[[Architecture, int], Value]) -> Callable[[Architecture, int], Value]:
    """Return `function`, with None for a context beyond a table of learned positions."""

    def compute(model: Architecture, context_tokens: int) -> Value:
        return None if 0 < model.learned_positions < context_tokens else function(model, context_tokens)

    return compute


def _packed(function: Callable[[Architecture], Value]) -> Callable[[Architecture, int], Value]:
    return lambda model, context_tokens: function(model) if model.expert_format is WeightFormat.MXFP4 else None


def _yes(name: str) -> Callable[[Architecture, int], Value]:
    return lambda model, context_tokens: "yes" if getattr(model, name) else "no"


def _positions(model: Architecture) -> str:
    return f"learned {model.learned_positions:,}" if model.learned_positions else "RoPE"


def _yarn(model: Architecture) -> str | None:
    if model.yarn is None:
        return None
    return f"\N{MULTIPLICATION SIGN}{model.yarn.factor:g} of {model.yarn.original_context_tokens:,}"


def _feed_forward(model: Architecture) -> str:
    return f"{model.activation}{' experts' if model.experts else ''}"


def _sinks(model: Architecture) -> int | None:
    return model.layers * model.query_heads if model.sinks else None


def _published_active(model: Architecture) -> str | None:
    stated = published_active(model.name)
    if stated is None:
        return None
    computed = (count.active_parameters if stated.with_embedding else count.active_parameters_without_embedding)(model)
    difference = computed / (stated.billions * 1e9) - 1
    return f"{stated.billions:.{stated.decimals}f} B, {difference:+.2%}".replace("%", " %")


_DEPTH = (
    Figure("released", "released", Group.DEPTH, Unit.TEXT, _of(lambda m: m.released or None)),
    Figure("layers", "layers", Group.DEPTH, Unit.COUNT, _of(lambda m: m.layers), "L"),
    Figure("hidden", "hidden size", Group.DEPTH, Unit.COUNT, _of(lambda m: m.hidden_size), "C"),
    Figure(
        "width_to_depth", "hidden size / layers", Group.DEPTH, Unit.RATIO, _of(count.width_to_depth), "C/L",
        "Width against depth: a wide model has fewer steps one after the other, and needs more memory. In "
        "the Gemma 2 report (arXiv:2408.00118, table 9) a wide 9B model scores 52.0 on average "
        "over four benchmarks, a deep one 50.8.",
    ),
    Figure("query_heads", "query heads", Group.DEPTH, Unit.COUNT, _of(lambda m: m.query_heads), "H"),
    Figure("kv_heads", "kv heads", Group.DEPTH, Unit.COUNT, _of(lambda m: m.kv_heads), "K"),
    Figure(
        "queries_per_kv", "query heads per kv head", Group.DEPTH, Unit.COUNT,
        _of(lambda m: m.query_heads // m.kv_heads), "H//K",
    ),
    Figure("head_dim", "head dimension", Group.DEPTH, Unit.COUNT, _of(lambda m: m.head_dim), "D"),
    Figure(
        "attention_width", "attention / hidden width", Group.DEPTH, Unit.RATIO,
        _of(lambda m: m.query_heads * m.head_dim / m.hidden_size), "H*D/C",
    ),
    Figure("attention_bias", "attention bias", Group.DEPTH, Unit.TEXT, _yes("attention_bias")),
    Figure("sinks", "sinks", Group.DEPTH, Unit.COUNT, _of(_sinks), "s*L*H"),
    Figure("qk_norm", "q/k norm", Group.DEPTH, Unit.TEXT, _yes("qk_norm")),
    Figure("sliding_layers", "sliding layers", Group.DEPTH, Unit.COUNT, _of(lambda m: m.sliding_layers or None), "S"),
    Figure("window", "window", Group.DEPTH, Unit.COUNT, _of(lambda m: m.window or None), "W"),
    Figure("full_layers", "full layers", Group.DEPTH, Unit.COUNT, _of(lambda m: m.layers - m.sliding_layers), "L - S"),
    Figure("norm", "normalisation", Group.DEPTH, Unit.TEXT, _of(lambda m: m.norm)),
    Figure("norm_eps", "normalisation epsilon", Group.DEPTH, Unit.TEXT, _of(lambda m: f"{m.norm_eps:g}")),
    Figure("positions_kind", "positions", Group.DEPTH, Unit.TEXT, _of(_positions)),
    Figure("rope_theta", "RoPE theta", Group.DEPTH, Unit.COUNT, _of(lambda m: m.rope_theta and round(m.rope_theta))),
    Figure("yarn", "YaRN", Group.DEPTH, Unit.TEXT, _of(_yarn)),
    Figure("context", "context", Group.DEPTH, Unit.COUNT, _of(lambda m: m.max_context_tokens)),
    Figure("vocabulary", "vocabulary", Group.DEPTH, Unit.COUNT, _of(lambda m: m.vocabulary_size), "V"),
    Figure("tied", "embedding tied", Group.DEPTH, Unit.TEXT, _yes("tied_embedding")),
    Figure("dropout", "dropout", Group.DEPTH, Unit.RATIO, _of(lambda m: m.dropout or None)),
    Figure("license", "licence", Group.DEPTH, Unit.TEXT, _of(lambda m: m.license or None)),
)  # fmt: skip

_EXPERTS = (
    Figure("feed_forward", "feed-forward", Group.EXPERTS, Unit.TEXT, _of(_feed_forward), note=activation_table()),
    Figure("experts_per_layer", "experts per layer", Group.EXPERTS, Unit.COUNT, _of(lambda m: m.experts or None), "E"),
    Figure(
        "active_experts", "active experts", Group.EXPERTS, Unit.COUNT, _of(lambda m: m.active_experts or None), "A",
    ),
    Figure("intermediate", "intermediate size", Group.EXPERTS, Unit.COUNT, _of(lambda m: m.intermediate_size), "F"),
    Figure(
        "active_width", "active feed-forward width", Group.EXPERTS, Unit.COUNT,
        _of(count.active_feed_forward_width), "A*F",
    ),
    Figure(
        "active_width_ratio", "active width / hidden size", Group.EXPERTS, Unit.RATIO,
        _of(lambda m: count.active_feed_forward_width(m) / m.hidden_size), "A*F/C",
        "gpt-oss has exactly 4, as GPT-2 had.",
    ),
    Figure(
        "combinations", "choices of experts", Group.EXPERTS, Unit.COUNT, _with_experts(count.expert_combinations),
        "comb(E, A)",
    ),
    Figure(
        "expert", "one expert or feed-forward", Group.EXPERTS, Unit.COUNT, _of(count.expert_parameters),
        "g*C*F + f*((g - 1)*F + C)",
        "A gate needs a third matrix, but a narrower one. The article's example, hidden size 1,024: without a gate "
        f"2 x 1,024 x 4,096 = {count.feed_forward_weights(1_024, 4_096, gated=False):,}, with one "
        f"3 x 1,024 x 1,024 = {count.feed_forward_weights(1_024, 1_024, gated=True):,}.",
    ),
    Figure(
        "expert_mxfp4", "one expert in MXFP4", Group.EXPERTS, Unit.BYTES, _with_experts(count.expert_mxfp4_bytes),
        "g*C*F*17//32", "17 bytes hold 32 weights. Offloading moves this much for each expert that is not there.",
    ),
)  # fmt: skip

_SIZE = (
    Figure(
        "parameters", "parameters, all", Group.SIZE, Unit.COUNT, _of(count.parameters),
        "embedding + positions + unembedding + attention + experts + router + norms",
    ),
    Figure(
        "relative_parameters", "parameters / first model", Group.SIZE, Unit.RATIO, _of(count.parameters),
        "parameters", relative=True,
    ),
    Figure("embedding", "embedding", Group.SIZE, Unit.COUNT, _of(count.embedding_parameters), "V*C"),
    Figure(
        "positions", "learned positions", Group.SIZE, Unit.COUNT, _of(lambda m: count.position_parameters(m) or None),
        "P*C",
    ),
    Figure(
        "unembedding", "unembedding", Group.SIZE, Unit.COUNT, _of(lambda m: count.unembedding_parameters(m) or None),
        "u*V*C", "Without one of its own, a model uses its embedding a second time.",
    ),
    Figure(
        "attention", "attention", Group.SIZE, Unit.COUNT, _of(count.attention_parameters),
        "L*(2*C*H*D + 2*C*K*D + b*(H*D + 2*K*D + C) + s*H + q*2*D)",
    ),
    Figure("experts", "experts or feed-forward", Group.SIZE, Unit.COUNT, _of(count.experts_parameters), "L*E*expert"),
    Figure("router", "router", Group.SIZE, Unit.COUNT, _with_experts(count.router_parameters), "r*L*E*(C + o)"),
    Figure(
        "norms", "norms", Group.SIZE, Unit.COUNT, _of(count.norm_parameters), "v*(2*L + 1)*C",
        "LayerNorm subtracts the mean, divides by the deviation and has a bias; RMSNorm needs one statistic and none.",
    ),
    Figure(
        "experts_share", "share in experts", Group.SIZE, Unit.PERCENT,
        _of(lambda m: 100 * count.experts_parameters(m) / count.parameters(m)), "100*experts/parameters",
    ),
    Figure(
        "active", "active parameters", Group.SIZE, Unit.COUNT, _of(count.active_parameters_without_embedding),
        "active_with_embedding - u*embedding",
        "OpenAI's convention: the unembedding counts as active, an embedding that is only looked up does not.",
    ),
    Figure(
        "active_with_embedding", "active, embedding too", Group.SIZE, Unit.COUNT,
        _of(count.active_parameters), "parameters - L*(E - A)*expert", "The convention of Qwen3's A3B and A22B.",
    ),
    Figure(
        "active_published", "active as published", Group.SIZE, Unit.TEXT, _of(_published_active), "",
        "The count of its publisher, by its own convention, and the difference of the computed one.",
    ),
    Figure(
        "active_share", "active share", Group.SIZE, Unit.PERCENT,
        _of(lambda m: 100 * count.active_parameters_without_embedding(m) / count.parameters(m)),
        "100*active/parameters",
    ),
)  # fmt: skip

_MEMORY = (
    Figure("bf16", "weights in bf16", Group.MEMORY, Unit.GB, _of(count.bf16_bytes), "2*parameters"),
    Figure(
        "mxfp4", "weights in MXFP4", Group.MEMORY, Unit.GB, _packed(count.mxfp4_bytes),
        "packed_experts + 2*(parameters - L*E*g*C*F)", "As published: only the matrices of the experts are packed.",
    ),
    Figure(
        "packed_experts", "packed experts", Group.MEMORY, Unit.GB, _packed(count.packed_experts_bytes),
        "L*E*expert_mxfp4",
    ),
    Figure(
        "bits", "bits per parameter", Group.MEMORY, Unit.BITS, _of(count.bits_per_parameter), "",
        "Published bytes times 8, over all parameters.",
    ),
    Figure(
        "kv_multi_head", "KV per token, multi-head", Group.MEMORY, Unit.BYTES,
        _of(count.kv_bytes_per_token_multi_head), "2*L*H*D*2",
        "If each query head had a key and a value of its own, in 16 bit.",
    ),
    Figure(
        "kv_full", "KV per token, no windows", Group.MEMORY, Unit.BYTES, _of(count.kv_bytes_per_token_full),
        "2*L*K*D*2", "Keys and values in 16 bit.",
    ),
    Figure(
        "kv_further", "KV per further token", Group.MEMORY, Unit.BYTES, _of(count.kv_bytes_per_further_token),
        "2*(L - S)*K*D*2", "Beyond the window only full layers grow.",
    ),
    Figure(
        "kv_windows", "KV of the windows", Group.MEMORY, Unit.MIB, _of(lambda m: count.kv_window_bytes(m) or None),
        "2*S*W*K*D*2",
    ),
    Figure(
        "kv_at_context", "KV at {context}", Group.MEMORY, Unit.MIB, _within_context(count.kv_cache_bytes),
        "2*((L - S)*n + S*min(n, W))*K*D*2",
    ),
    Figure(
        "kv_at_context_full", "KV at {context}, no windows", Group.MEMORY, Unit.MIB,
        _within_context(count.kv_cache_bytes_without_windows), "n*kv_full",
    ),
)  # fmt: skip

_COMPUTE = (
    Figure(
        "flop_matrices", "FLOP per token, matrices", Group.COMPUTE, Unit.FLOP, _of(count.matrix_flops_per_token),
        "2*(active - P*C)", "A multiplication and an addition for each active parameter that is not looked up.",
    ),
    Figure(
        "flop_attention", "FLOP, attention at {context}", Group.COMPUTE, Unit.FLOP,
        _within_context(count.attention_flops_per_token), "4*H*D*((L - S)*n + S*min(n, W))",
        "2*H*D for the scores and 2*H*D for the values, at each position that a layer attends to.",
    ),
    Figure(
        "read", "bytes read per token", Group.COMPUTE, Unit.GB, _of(count.bytes_per_decoded_token), "",
        "Weights as published that one token needs at batch 1; memory bandwidth over this bounds the decode rate.",
    ),
)  # fmt: skip

FIGURES: tuple[Figure, ...] = (*_DEPTH, *_EXPERTS, *_SIZE, *_MEMORY, *_COMPUTE)
BY_KEY = {figure.key: figure for figure in FIGURES}


def find_figures(words: str) -> list[Figure]:
    """Return the figures whose label or key contains `words`, in any case."""
    wanted = " ".join(words.lower().replace("_", " ").split())
    return [f for f in FIGURES if wanted and (wanted in f.label.lower() or wanted in f.key.replace("_", " "))]
