"""The inside of a turn as lines: its tokens by their probability, and the use of its experts."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from gptoss_cli.generation import LayerExperts
from gptoss_cli.harmony.events import Token
from gptoss_cli.terminal.cells import Line, Role, Span, cells, fold, wrap
from gptoss_cli.units import counted

# The least probability of each step, its style, and its mark below the text where there is no colour.
_STEPS: Final = ((0.5, "", " "), (0.1, "33", "▁"), (0.01, "31", "▄"), (0.0, "1;31", "█"))
_FORCED_STYLE, _FORCED_MARK = "7", "="
_UNLIKELY: Final = 0.1
_ALTERNATIVES: Final = 3
_HEIGHTS: Final = " ▁▂▃▄▅▆▇█"
_BUSIEST: Final = 4
_FIGURES_COLUMNS: Final = 37  # the columns of an expert line that are not cells


@dataclass(frozen=True, slots=True)
class _Piece:
    """A token as it is shown: visible text, its style and its mark."""

    text: str
    style: str
    mark: str
    token: Token | None = None


def token_lines(tokens: Sequence[Token], columns: int, *, colored: bool) -> list[Line]:
    """Return the tokens of a turn, marked by how unlikely they were, without the content of the reasoning.

    Alternatives of tokens below a probability of 0.1 follow the line that they are on.
    """
    lines: list[Line] = []
    for row in _rows(_pieces(tokens), columns):
        lines.append([Span(piece.text, piece.style if colored else "") for piece in row])
        marks = "".join(piece.mark * cells(piece.text) for piece in row).rstrip()
        if marks and not colored:
            lines.append([Span(marks)])
        for piece in row:
            if piece.token is not None and _is_unlikely(piece.token):
                words = [Span(f"  {_alternatives(piece.token)}", Role.DIM if colored else Role.PLAIN)]
                lines += fold(words, columns)
    legend = "Probability below 0.5, 0.1, 0.01: "
    shown = [Span(name, style) for name, (_, style, _) in zip(("yellow", "red", "bold"), _STEPS[1:], strict=True)]
    words = [Span(legend), *_joined(shown)] if colored else [Span(f"{legend}{' '.join(m for *_, m in _STEPS[1:])}")]
    words.append(Span("; forced: "))
    words.append(Span("inverse", _FORCED_STYLE) if colored else Span(_FORCED_MARK))
    return [*lines, [], *wrap(words, columns)]


def _joined(spans: Iterable[Span]) -> Iterator[Span]:
    for number, span in enumerate(spans):
        yield from ([Span(", "), span] if number else [span])


def _pieces(tokens: Sequence[Token]) -> Iterator[_Piece]:
    hidden = 0
    for token in tokens:
        if token.is_reasoning:
            hidden += 1
            continue
        if hidden:
            yield _Piece(f" {counted(hidden, 'token')} of reasoning ", Role.DIM, " ")
            hidden = 0
        yield _piece(token)
    if hidden:
        yield _Piece(f" {counted(hidden, 'token')} of reasoning ", Role.DIM, " ")


def _piece(token: Token) -> _Piece:
    if token.info.forced:
        return _Piece(visible(token.token.text), _FORCED_STYLE, _FORCED_MARK, token)
    probability = math.exp(token.info.logprob)
    _, style, mark = next(step for step in _STEPS if probability >= step[0])
    return _Piece(visible(token.token.text), style, mark, token)


def _rows(pieces: Iterable[_Piece], columns: int) -> Iterator[list[_Piece]]:
    """Break pieces into rows of at most `columns`, and after newlines. A piece that is too long is cut."""
    row: list[_Piece] = []
    used = 0
    for piece in pieces:
        parts = ["".join(span.text for span in line) for line in fold([Span(piece.text)], columns)]
        for number, text in enumerate(parts):
            size = cells(text)
            if row and used + size > columns:
                yield row
                row, used = [], 0
            # The alternatives are shown once, with the last part.
            row.append(_Piece(text, piece.style, piece.mark, piece.token if number == len(parts) - 1 else None))
            used += size
        if piece.text.endswith("\\n"):
            yield row
            row, used = [], 0
    if row:
        yield row


def _is_unlikely(token: Token) -> bool:
    return not token.info.forced and math.exp(token.info.logprob) < _UNLIKELY


def _alternatives(token: Token) -> str:
    others = [(text, logprob) for text, logprob in token.top if text.id != token.token.id]
    words = ", ".join(f"{visible(text.text)} {math.exp(logprob):.2f}" for text, logprob in others[:_ALTERNATIVES])
    own = f"{visible(token.token.text)} {math.exp(token.info.logprob):.3f}, number {token.info.rank:,}"
    return f"{own}; likelier: {words}" if token.info.rank > 1 else f"{own}; next: {words}"


def visible(text: str) -> str:
    """Return the text of a token with blanks and control characters visible. Spaces within it are points."""
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in text.replace(" ", "·")
    )


@dataclass(frozen=True, slots=True)
class LayerUse:
    """The use of one layer's experts: how often each was active, and how many were new for a token on average."""

    counts: tuple[int, ...]
    switches: float

    @property
    def entropy(self) -> float:
        """The entropy of the distribution of uses over experts, in bits."""
        total = sum(self.counts)
        return -sum(count / total * math.log2(count / total) for count in self.counts if count)

    @property
    def busiest(self) -> float:
        """The share of the four experts that were used most."""
        return sum(sorted(self.counts)[-_BUSIEST:]) / sum(self.counts)


def layer_uses(tokens: Sequence[tuple[LayerExperts, ...]], experts: int) -> list[LayerUse]:
    """Return the use of each layer's `experts` by at least one token."""
    uses = []
    for layer in zip(*tokens, strict=True):
        counts = Counter(expert for token in layer for expert in token.experts)
        new = [len(set(after.experts) - set(before.experts)) for before, after in pairwise(layer)]
        switches = sum(new) / len(new) if new else 0.0
        uses.append(LayerUse(tuple(counts[expert] for expert in range(experts)), switches))
    return uses


def expert_lines(tokens: Sequence[tuple[LayerExperts, ...]], experts: int, columns: int) -> list[Line]:
    """Return a line per layer: a cell per expert by use, share of the busiest, entropy, switches per token."""
    uses, active = layer_uses(tokens, experts), len(tokens[0][0].experts)
    group = 1
    while -(-experts // group) > max(8, columns - _FIGURES_COLUMNS):
        group *= 2
    width = max(-(-experts // group), len("use"))
    # On a narrow terminal the names of the columns are shortened, and the blanks before them.
    is_narrow = width + _FIGURES_COLUMNS > columns
    names = (f"top {_BUSIEST}", "bits", "new") if is_narrow else (f"busiest {_BUSIEST}", "entropy", "switches")
    heads = "".join(f"  {name:>5}" for name in names)
    lines: list[Line] = [[Span(f"layer  {'use':<{width}}{heads}", Role.STRONG)]]
    for number, use in enumerate(uses):
        texts = zip(names, (f"{use.busiest:.0%}", f"{use.entropy:.2f}", f"{use.switches:.2f}"), strict=True)
        figures = "".join(f"  {text:>{max(5, len(name))}}" for name, text in texts)
        lines.append([Span(f"{number:>5}  {_cells(use.counts, group):<{width}}{figures}")])
    switches, reads = sum(use.switches for use in uses), active * len(uses)
    words = (
        f"{counted(len(tokens), 'token')}, {active} of {experts} experts per layer"
        + (f", {group} experts per cell" if group > 1 else "")
        + f". Entropy is in bits, at most {math.log2(experts):.2f}. "
        f"A token changes {switches:.1f} of {reads} active experts ({switches / reads:.0%}): "
        "a GPU that kept only one token's experts would have to load these."
    )
    return [*lines, [], *wrap([Span(words)], columns)]


def _cells(counts: Sequence[int], group: int) -> str:
    """Return a character per `group` of counts, its height from 0 to the largest. Only no use at all is blank."""
    sums = [sum(counts[start : start + group]) for start in range(0, len(counts), group)]
    largest = max(sums)
    return "".join(_HEIGHTS[math.ceil(each / largest * (len(_HEIGHTS) - 1))] for each in sums)
