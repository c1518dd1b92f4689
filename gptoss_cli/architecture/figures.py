"""The rows of `compare`: each figure with its group, its unit, and the formula that its value comes from.

A formula is a Python expression over the letters of SYMBOLS and over keys of other figures. The tests evaluate each one
and compare it with the function in count.py.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from gptoss_cli.architecture import count
from gptoss_cli.architecture.known import Architecture, Norm, WeightFormat
from gptoss_cli.architecture.published import published_active

Value = int | float | str | None
NONE = "-"


class Group(StrEnum):
    """The sections of the table, and the values of `--by`."""

    DEPTH = "depth"
    EXPERTS = "experts"
    SIZE = "size"
    MEMORY = "memory"
    COMPUTE = "compute"


class Unit(StrEnum):
    """The unit of a value, which decides how it is printed."""

    TEXT = "text"
    COUNT = "count"
    RATIO = "ratio"
    PERCENT = "percent"
    BYTES = "bytes"
    MIB = "bytes, printed in MiB"
    GB = "bytes, printed in GB"
    FLOP = "operations"
    BITS = "bits"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row. `compute` takes a model and a context in tokens; None means that the model has no such thing."""

    key: str
    label: str
    group: Group
    unit: Unit
    compute: Callable[[Architecture, int], Value]
    formula: str = ""
    note: str = ""


# Letter -> description and value, for a model and a context.
SYMBOLS: dict[str, tuple[str, Callable[[Architecture, int], int]]] = {
    "L": ("layers", lambda m, n: m.layers),
    "S": ("sliding layers", lambda m, n: m.sliding_layers),
    "W": ("window of the sliding layers", lambda m, n: m.window),
    "n": ("context in tokens", lambda m, n: n),
    "C": ("hidden size", lambda m, n: m.hidden_size),
    "H": ("query heads", lambda m, n: m.query_heads),
    "K": ("kv heads", lambda m, n: m.kv_heads),
    "D": ("head dimension", lambda m, n: m.head_dim),
    "E": ("experts per layer, 1 if dense", lambda m, n: count.expert_count(m)),
    "A": ("active experts per layer, 1 if dense", lambda m, n: count.active_expert_count(m)),
    "F": ("intermediate size of an expert", lambda m, n: m.intermediate_size),
    "V": ("vocabulary", lambda m, n: m.vocabulary_size),
    "P": ("learned positions", lambda m, n: m.learned_positions),
    "b": ("1 with attention biases", lambda m, n: int(m.attention_bias)),
    "s": ("1 with sinks", lambda m, n: int(m.sinks)),
    "q": ("1 with q/k norms", lambda m, n: int(m.qk_norm)),
    "g": ("matrices of an expert, 3 if gated", lambda m, n: count.matrices_per_expert(m)),
    "f": ("1 with feed-forward biases", lambda m, n: int(m.feed_forward_bias)),
    "r": ("1 with a router", lambda m, n: int(m.experts > 0)),
    "o": ("1 with a router bias", lambda m, n: int(m.router_bias)),
    "v": ("vectors of a norm, 2 for LayerNorm", lambda m, n: 2 if m.norm is Norm.LAYER else 1),
    "u": ("1 with an unembedding of its own", lambda m, n: int(not m.tied_embedding)),
}


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
        "Width against depth: a wide model has fewer steps one after the other.",
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
    Figure("feed_forward", "feed-forward", Group.EXPERTS, Unit.TEXT, _of(_feed_forward)),
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


def label(figure: Figure, context_tokens: int) -> str:
    """Return the label of a row with the context in it."""
    return figure.label.format(context=f"{context_tokens:,}")


def show(value: Value, unit: Unit) -> str:
    """Return a value as the table prints it."""
    match value, unit:
        case None, _:
            return NONE
        case str(), _:
            return value
        case _, Unit.COUNT:
            return f"{value:,}" if value < 10**12 and value % 1 == 0 else f"{value:.2e}".replace("e+", "e")
        case _, Unit.PERCENT:
            return f"{value:.1f} %"
        case _, Unit.BYTES:
            return f"{value:,} B"
        case _, Unit.MIB:
            return f"{value / 2**20:,.1f} MiB".replace(".0 ", " ")
        case _, Unit.GB:
            return f"{value / 1e9:.2f} GB" if value >= 10**8 else f"{value / 1e6:.2f} MB"
        case _, Unit.FLOP:
            return f"{value / 1e9:.2f} G" if value >= 10**8 else f"{value / 1e6:.2f} M"
        case _, Unit.BITS:
            return f"{value:.2f}".removesuffix(".00")
        case _:
            return f"{value:.2f}".rstrip("0").rstrip(".") if value < 10 else f"{value:.0f}"


def find_figures(words: str) -> list[Figure]:
    """Return the figures whose label or key contains `words`, in any case."""
    wanted = " ".join(words.lower().replace("_", " ").split())
    return [f for f in FIGURES if wanted and (wanted in f.label.lower() or wanted in f.key.replace("_", " "))]


def operands(figure: Figure, model: Architecture, context_tokens: int) -> Iterator[tuple[str, Value]]:
    """Yield each letter and key of the formula, once, with its value."""
    for name in dict.fromkeys(re.findall(r"[A-Za-z_]\w*", figure.formula)):
        if name in SYMBOLS:
            yield name, SYMBOLS[name][1](model, context_tokens)
        elif name in BY_KEY:
            yield name, BY_KEY[name].compute(model, context_tokens)


def substituted(figure: Figure, model: Architecture, context_tokens: int) -> str:
    """Return the formula with its operands replaced by their values."""
    values = dict(operands(figure, model, context_tokens))

    def value_of(match: re.Match[str]) -> str:
        name = match[0]
        return f"{values[name] or 0:,}" if name in values else name

    return readable(re.sub(r"[A-Za-z_]\w*", value_of, figure.formula))


def readable(formula: str) -> str:
    """Return a formula as text: with multiplication signs, and labels in place of keys."""
    text = re.sub(r"[A-Za-z_]\w+", lambda match: BY_KEY[match[0]].label if match[0] in BY_KEY else match[0], formula)
    return re.sub(r" *//? *", " / ", re.sub(r" *\* *", " \N{MULTIPLICATION SIGN} ", text))
