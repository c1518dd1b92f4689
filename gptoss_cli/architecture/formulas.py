"""Formulas of figures as text: their letters, and their operands as numbers."""

import re
from collections.abc import Callable, Iterator

from gptoss_cli.architecture import count
from gptoss_cli.architecture.figures import Figure, Value
from gptoss_cli.architecture.known import Architecture, Norm
from gptoss_cli.architecture.rows import BY_KEY

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
