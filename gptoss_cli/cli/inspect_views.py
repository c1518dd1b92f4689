"""The views of `gptoss inspect` as lines for the terminal."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gptoss_cli.architecture import count
from gptoss_cli.architecture.figures import Unit, show
from gptoss_cli.architecture.known import Architecture, Norm
from gptoss_cli.architecture.rope import rotations
from gptoss_cli.architecture.tensors import Part, PartSize, Tensor
from gptoss_cli.generation import AttentionMeasurement
from gptoss_cli.harmony.prompt_tokens import PromptToken
from gptoss_cli.terminal.architecture_table import Diagram, Grid, Layer, bar, fits, grid_lines, sparkline
from gptoss_cli.terminal.cells import Line, Role, Span, fold, wrap
from gptoss_cli.terminal.turn_inspection import visible
from gptoss_cli.units import counted

_BAR_COLUMNS = 10
_WIDE_COLUMNS = 90


@dataclass(frozen=True, slots=True)
class Sinks:
    """The learned sink logits of one layer, one per query head. `window` is 0 in a full layer."""

    layer: int
    window: int
    logits: tuple[float, ...]


def parts_lines(
    model: Architecture, parts: Sequence[PartSize], source: str, contexts: Sequence[int], columns: int
) -> list[Line]:
    """Return the parts with parameters and bytes, the cost of contexts, and the work per token."""
    lines = [*fold([Span(model.name, Role.TITLE)], columns), *wrap([Span(f"From {source}")], columns), []]
    lines += grid_lines(_parts_grid(parts, with_bars=columns >= _WIDE_COLUMNS), columns)
    active, total = count.active_parameters_without_embedding(model), count.parameters(model)
    for text in (
        f"Active per token: {active:,} parameters ({active / total:.1%}), "
        f"with the embedding {count.active_parameters(model):,}.",
        f"Read per token: {show(count.bytes_per_decoded_token(model), Unit.GB)}. "
        f"Matrices: {show(count.matrix_flops_per_token(model), Unit.FLOP)}FLOP.",
    ):
        lines += wrap([Span(text)], columns)
    return [*lines, [], *grid_lines(_contexts_grid(model, contexts), columns)]


def _parts_grid(parts: Sequence[PartSize], *, with_bars: bool) -> Grid:
    total = sum(size.parameters for size in parts)
    header = ["part", "parameters", "share", *([""] if with_bars else []), "stored as", "bytes", "in bf16"]
    rows = []
    for size in parts:
        share = size.parameters / total
        rows.append(
            [
                str(size.part),
                f"{size.parameters:,}",
                f"{share:.1%}",
                *([bar(share, _BAR_COLUMNS)] if with_bars else []),
                ", ".join(size.formats),
                *_bytes(size.size_bytes, size.parameters),
            ]
        )
    formats = ", ".join(sorted({name for size in parts for name in size.formats}))
    stored = sum(size.size_bytes for size in parts)
    total_row = ["all", f"{total:,}", "100%", *([""] if with_bars else []), formats, *_bytes(stored, total)]
    return Grid(header, [*rows, total_row], frozenset({0, 3, 4} if with_bars else {0, 3}))


def _bytes(stored: int, parameters: int) -> tuple[str, str]:
    return _size(stored), _size(count.BF16_BYTES * parameters)


def _size(size_bytes: int) -> str:
    """Return bytes in decimal units, with two decimals."""
    unit, step = ("GB", 10**9) if size_bytes >= 10**8 else ("MB", 10**6)
    return f"{size_bytes / step:.2f} {unit}"


def _contexts_grid(model: Architecture, contexts: Sequence[int]) -> Grid:
    rows = [
        [
            f"{tokens:,}",
            show(count.kv_cache_bytes(model, tokens), Unit.MIB),
            show(count.kv_cache_bytes_without_windows(model, tokens), Unit.MIB),
            show(count.attention_flops_per_token(model, tokens), Unit.FLOP) + "FLOP",
        ]
        for tokens in contexts
        if not 0 < model.learned_positions < tokens
    ]
    return Grid(["context", "KV cache", "without windows", "attention per token"], rows, frozenset())


def tensors_lines(tensors: Sequence[Tensor], columns: int) -> list[Line]:
    """Return the tensors, with those that only differ by the layer in one row."""
    groups: Counter[tuple[str, str, str, int]] = Counter()
    for tensor in tensors:
        name = re.sub(rf"\.{tensor.layer}\.", ".N.", tensor.name, count=1) if tensor.layer is not None else tensor.name
        groups[name, tensor.dtype, str(list(tensor.shape)), tensor.size_bytes] += 1
    grid = Grid(
        ["tensor", "dtype", "shape", "bytes", "count"],
        [[name, dtype, shape, f"{size:,}", str(number)] for (name, dtype, shape, size), number in groups.items()],
    )
    if not fits(grid, columns):
        without_bytes = [[*row[:3], row[4]] for row in (grid.header, *grid.rows)]
        grid = Grid(without_bytes[0], without_bytes[1:])
    total = sum(tensor.size_bytes for tensor in tensors)
    words = f"{len(tensors)} tensors, {total:,} bytes. N stands for the layer."
    return [*grid_lines(grid, columns), [], *wrap([Span(words)], columns)]


def sinks_lines(model: Architecture, layers: Sequence[Sinks], columns: int) -> list[Line]:
    """Return the sink logits: a row of numbers per layer, and the heads as a line of marks."""
    lines = wrap(
        [Span(f"{model.name}: sink logits of {model.query_heads} query heads per layer, lowest to highest as ▁ to █.")],
        columns,
    )
    for sinks in layers:
        kind = f"window {sinks.window}" if sinks.window else "full"
        mean = sum(sinks.logits) / len(sinks.logits)
        text = f"layer {sinks.layer}, {kind}: {min(sinks.logits):.2f} to {max(sinks.logits):.2f}, mean {mean:.2f}"
        lines += wrap([Span(text)], columns)
        marks = fold([Span(sparkline(sinks.logits))], columns - 2)
        lines += [[Span("  "), *line] for line in marks]
    return lines


def sink_mass_lines(measured: Sequence[AttentionMeasurement], tokens: int, columns: int) -> list[Line]:
    """Return the mean share of the attention that the sinks took: a row per layer, and the heads as a line of marks."""
    masses = [mass for layer in measured for mass in layer.sink_mass]
    words = (
        f"Attention taken by the sinks over the {counted(tokens, 'token')} of the prompt: "
        f"{sum(masses) / len(masses):.1%} on average. Heads from 0% to 100% as ▁ to █."
    )
    lines = wrap([Span(words)], columns)
    for layer in measured:
        mass = layer.sink_mass
        text = f"layer {layer.layer}, {f'window {layer.window}' if layer.window else 'full'}: "
        text += f"{min(mass):.0%} to {max(mass):.0%}, mean {sum(mass) / len(mass):.0%}"
        lines += wrap([Span(text)], columns)
        # The bounds make 0 and 1 the ends of the scale.
        marks = fold([Span(sparkline([*mass, 0.0, 1.0])[:-2])], columns - 2)
        lines += [[Span("  "), *line] for line in marks]
    return lines


def key_bias_lines(measured: Sequence[AttentionMeasurement], tokens: int, columns: int) -> list[Line]:
    """Return how far attention moves without the bias of the keys, by layer."""
    words = (
        f"Attention that moves when the key bias is left out, over {counted(tokens, 'token')} "
        "(total variation distance, 0 to 1). "
        "Softmax cancels what all keys share, so the bias is redundant without RoPE and sinks. RoPE turns it."
    )
    rows = [
        [
            str(layer.layer),
            f"{layer.window or 'full'}",
            f"{layer.key_bias_norm:.2f}",
            f"{layer.shift:.4f}",
            f"{layer.shift_without_rope:.4f}",
            f"{layer.shift_without_rope_and_sinks:.4f}",
        ]
        for layer in measured
    ]
    header = ["layer", "window", "bias norm", "as it is", "without RoPE", "nor sinks"]
    return [*wrap([Span(words)], columns), [], *grid_lines(Grid(header, rows, frozenset()), columns)]


def rope_lines(model: Architecture, columns: int) -> list[Line]:
    """Return the period of each rotating pair of dimensions, in positions."""
    rows = [[str(r.pair), f"{r.plain_period:,.1f}", f"{r.period:,.1f}", f"{r.stretch:.2f}"] for r in rotations(model)]
    if not rows:
        text = f"{model.name} has {model.learned_positions:,} learned positions and no RoPE."
        return wrap([Span(text)], columns)
    yarn = model.yarn
    words = (
        f"YaRN stretches slow rotations by {yarn.factor:g}, from {yarn.original_context_tokens:,} positions, "
        f"and keeps those that turn over {yarn.beta_fast:g} times in them."
        if yarn
        else "No YaRN: both columns are equal."
    )
    lines = wrap(
        [Span(f"{model.name}: positions per turn of each pair, theta {model.rope_theta:,.0f}. {words}")], columns
    )
    return [*lines, [], *grid_lines(Grid(["pair", "without YaRN", "period", "stretch"], rows, frozenset()), columns)]


def prompt_lines(tokens: Sequence[PromptToken], columns: int) -> list[Line]:
    """Return the ids of a prompt with their text, role and channel."""
    header = ["position", "id", "text", "role", "channel"]
    rows = [
        [str(number), str(token.id), visible(token.text), token.role, token.channel]
        for number, token in enumerate(tokens)
    ]
    grid = Grid(header, rows, frozenset({2, 3, 4}))
    if not fits(grid, columns):
        grid = Grid(header[1:], [row[1:] for row in rows], frozenset({1, 2, 3}))
    return [*grid_lines(grid, columns), [], [Span(counted(len(tokens), "token"))]]


def diagram_of(model: Architecture) -> Diagram:
    """Return the diagram of a model: embedding, attention and feed-forward with their branches, unembedding."""
    hidden = model.hidden_size
    norm = count.norm_parameters(model) // (2 * model.layers + 1)
    block_norm = Layer(model.norm, "weight and bias" if model.norm is Norm.LAYER else "", f"{norm * model.layers:,}")
    before = [Layer("embedding", f"{model.vocabulary_size:,} x {hidden:,}", f"{count.embedding_parameters(model):,}")]
    if model.learned_positions:
        positions = f"{count.position_parameters(model):,}"
        before.append(Layer("+ positions", f"{model.learned_positions:,} x {hidden:,}", positions))
    unembedding = count.unembedding_parameters(model)
    after = [
        Layer(model.norm, "", f"{norm:,}"),
        Layer("unembedding", f"{hidden:,} x {model.vocabulary_size:,}", f"{unembedding:,}" if unembedding else "tied"),
    ]
    branches = [[block_norm, *_attention(model)], [block_norm, *_feed_forward(model)]]
    title = f"{model.name}: {count.parameters(model):,}"
    return Diagram(title, f"{model.layers} layers", before, branches, after)


def _attention(model: Architecture) -> list[Layer]:
    heads = f"{model.query_heads} query, {model.kv_heads} kv heads of {model.head_dim}"
    extras = [
        name
        for name, present in (("bias", model.attention_bias), ("sinks", model.sinks), ("q/k norm", model.qk_norm))
        if present
    ]
    if model.rope_theta is not None:
        extras.append("RoPE, YaRN" if model.yarn else "RoPE")
    windows = "full"
    if model.sliding_layers:
        windows = f"window {model.window}: {model.sliding_layers} layers, full: {model.layers - model.sliding_layers}"
    return [
        Layer("attention", heads, f"{count.attention_parameters(model):,}"),
        Layer("", windows),
        Layer("", ", ".join(extras)),
    ]


def _feed_forward(model: Architecture) -> list[Layer]:
    experts = f"{count.experts_parameters(model):,}"
    width = f"{model.activation}, width {model.intermediate_size:,}"
    if not model.experts:
        return [Layer("feed-forward", width, experts)]
    router = f"chooses {model.active_experts} of {model.experts} experts"
    return [
        Layer("router", router, f"{count.router_parameters(model):,}"),
        Layer(f"{Part.EXPERTS}", f"{model.active_experts} x {width}", experts),
    ]
