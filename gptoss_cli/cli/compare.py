"""`gptoss compare`: architectures side by side, every number computed, and the figures that were published."""

import os
from pathlib import Path
from typing import Any

from gptoss_cli.architecture.config import read_architecture
from gptoss_cli.architecture.figures import Figure, Unit, Value, label, show
from gptoss_cli.architecture.formulas import SYMBOLS, operands, readable, substituted
from gptoss_cli.architecture.known import KNOWN, Architecture, find_architecture
from gptoss_cli.architecture.published import Score, benchmark_scores
from gptoss_cli.architecture.rows import FIGURES, find_figures
from gptoss_cli.checkpoint.folder import load_json
from gptoss_cli.checkpoint.store import find_folder
from gptoss_cli.cli.json_output import write_json
from gptoss_cli.cli.model_options import CompareOptions
from gptoss_cli.demo.unpack import demo_checkpoint
from gptoss_cli.errors import NotInstalledError, UsageError
from gptoss_cli.paths import shown_path, typed_path
from gptoss_cli.settings import Group
from gptoss_cli.terminal.architecture_table import (
    Grid,
    Section,
    comparison_lines,
    fits,
    grid_lines,
    has_colors,
    show_lines,
)
from gptoss_cli.terminal.cells import Line, Role, Span, fold, wrap
from gptoss_cli.terminal.console import Console

_SCALED = (Unit.MIB, Unit.GB, Unit.FLOP)
_TITLES = {
    Group.DEPTH: "Shape",
    Group.EXPERTS: "Experts and feed-forward",
    Group.SIZE: "Parameters",
    Group.MEMORY: "Memory",
    Group.COMPUTE: "Work per token",
}


def run_compare(names: list[str], options: CompareOptions, console: Console) -> None:
    """Run `gptoss compare`; without names for the five known models."""
    models = [find_model(name)[0] for name in names] or list(KNOWN)
    if options.explain is not None:
        figures = _explained(options.explain)
    else:
        figures = [figure for figure in FIGURES if options.by in (None, figure.group)]
    if options.as_json:
        values = comparison_json(models, figures, options.context)
        scores = _scores_of(models, names) if options.benchmarks else None
        write_json(values | ({} if scores is None else {"benchmarks": _scores_json(scores)}), console, indent=2)
        return
    columns = console.stdout.columns
    if options.explain is not None:
        lines = explanation_lines(models, figures, options.context, columns)
    elif options.benchmarks:
        lines = benchmark_lines(_scores_of(models, names), columns)
    else:
        sections = [
            Section(title, rows)
            for group, title in _TITLES.items()
            if (rows := _rows(models, [f for f in figures if f.group is group], options.context))
        ]
        lines = comparison_lines([m.name for m in models], sections, columns, colored=has_colors(console))
    show_lines(lines, console)


def find_model(name: str) -> tuple[Architecture, Path | None]:
    """Return the architecture of a model and the folder of its config.json, if it was read from one.

    A known name needs no files. Raises UsageError for an unknown name or model type, NotInstalledError for a folder
    without a config, IntegrityError for a config that contradicts itself.
    """
    known = find_architecture(name)
    if known is not None:
        return known, None
    folder = demo_checkpoint() if name == "demo" else _config_folder(name)
    title = name if name == "demo" else folder.resolve().name
    path = folder / "config.json"
    return read_architecture(load_json(path), name=title, path=str(path)), folder


def _config_folder(name: str) -> Path:
    """Return the folder of a config.json, whether weights are there or not."""
    given = typed_path(name)
    for folder in (given, given / "original", given.parent if given.name == "config.json" else given):
        if os.path.isfile(folder / "config.json"):
            return folder
    if os.path.isdir(given):
        raise NotInstalledError(f"{given} holds no config.json")
    try:
        return find_folder(name)
    except UsageError:
        known = ", ".join(model.name for model in KNOWN)
        raise UsageError(
            f"There is no model {shown_path(name)!r}. Known are {known}, demo, and folders with a config.json"
        ) from None


def comparison_json(models: list[Architecture], figures: list[Figure], context_tokens: int) -> dict[str, Any]:
    """Return the object of `compare --json` without the version."""
    return {
        "context_tokens": context_tokens,
        "models": [{"name": m.name, "model_type": m.model_type, "source": m.source} for m in models],
        "figures": [
            {
                "key": figure.key,
                "label": label(figure, context_tokens),
                "group": figure.group,
                "unit": figure.unit.name.lower(),
                "formula": figure.formula or None,
                "values": figure.values(models, context_tokens),
            }
            for figure in figures
        ],
    }


def _rows(models: list[Architecture], figures: list[Figure], context_tokens: int) -> list[tuple[str, list[str]]]:
    """Return the rows that at least one model has a value for."""
    rows = []
    for figure in figures:
        values = figure.values(models, context_tokens)
        if any(value is not None for value in values):
            rows.append((label(figure, context_tokens), [show(value, figure.unit) for value in values]))
    return rows


def _explained(words: str) -> list[Figure]:
    figures = find_figures(words)
    if not figures:
        labels = "; ".join(f.label.format(context="N") for f in FIGURES if f.formula)
        raise UsageError(f"No figure is called {words!r}. There are: {labels}")
    return figures


def explanation_lines(
    models: list[Architecture], figures: list[Figure], context_tokens: int, columns: int
) -> list[Line]:
    """Return for each figure its formula, its letters, and the formula with the numbers of each model."""
    lines: list[Line] = []
    for figure in figures:
        lines += [[]] if lines else []
        lines += wrap([Span(label(figure, context_tokens), Role.TITLE)], columns)
        for note in figure.note.splitlines():
            lines += fold([Span(note)], columns) if figure.unit is Unit.TEXT else wrap([Span(note)], columns)
        if figure.formula:
            lines += _indented(f"= {readable(figure.formula)}", columns)
            letters = [name for name, _ in operands(figure, models[0], context_tokens) if name in SYMBOLS]
            lines += _indented("; ".join(f"{letter} {SYMBOLS[letter][0]}" for letter in letters), columns)
        for model, value in zip(models, figure.values(models, context_tokens), strict=True):
            lines += _indented(
                f"{model.name}: {_calculation(figure, model, models[0], context_tokens, value)}", columns
            )
    return lines


def _calculation(figure: Figure, model: Architecture, first: Architecture, context_tokens: int, value: Value) -> str:
    """Return the formula with the numbers of a model, and its value; only the value if there is no formula."""
    shown = show(value, figure.unit)
    if not figure.formula or value is None:
        return shown
    numbers = substituted(figure, model, context_tokens)
    if figure.relative:
        numbers += f" / {substituted(figure, first, context_tokens)}"
    if not isinstance(value, int):
        return f"{numbers} = {shown}"
    return f"{numbers} = {value:,}" + (f" ({shown})" if figure.unit in _SCALED else "")


def _indented(text: str, columns: int) -> list[Line]:
    return [[Span("  "), *line] for line in wrap([Span(text)], columns - 2)] if text else []


def _scores_of(models: list[Architecture], names: list[str]) -> list[Score]:
    """Return the results of the models, and of the closed ones; all of them if no model was named."""
    others = {model.name for model in KNOWN} - {model.name for model in models} if names else set()
    return [score for score in benchmark_scores() if score.model not in others]


def _scores_json(scores: list[Score]) -> list[dict[str, Any]]:
    return [
        {
            "benchmark": score.benchmark,
            "model": score.model,
            "effort": score.effort,
            "score": score.score,
            "source": score.source.url,
            "date": score.source.date,
        }
        for score in scores
    ]


def benchmark_lines(scores: list[Score], columns: int) -> list[Line]:
    """Return a table of results and their sources, or a table per source if one is too wide."""
    sources = list(dict.fromkeys(score.source for score in scores))
    grid = _benchmark_grid(scores)
    if fits(grid, columns):
        lines = grid_lines(grid, columns)
    else:
        lines = []
        for source in sources:
            lines += [[]] if lines else []
            lines += grid_lines(_benchmark_grid([s for s in scores if s.source == source]), columns)
    text = "gpt-oss at low / medium / high effort, the others at high. Percent; Codeforces in Elo."
    lines += [[], *wrap([Span(text)], columns)]
    for source in sources:
        lines += wrap([Span(f"{source.title}, {source.date}, {source.url}")], columns)
    return lines


def _benchmark_grid(scores: list[Score]) -> Grid:
    """Return a row per benchmark and a column per model, with its efforts from low to high."""
    models = list(dict.fromkeys(score.model for score in scores))
    found = {(s.benchmark, s.model, s.effort): f"{s.score:.{0 if s.score > 100 else 1}f}" for s in scores}
    rows = []
    for benchmark in dict.fromkeys(score.benchmark for score in scores):
        row = [benchmark]
        for model in models:
            efforts = [found.get((benchmark, model, effort), "") for effort in ("low", "medium", "high")]
            row.append(" / ".join(value for value in efforts if value))
        rows.append(row)
    return Grid(["benchmark", *models], rows)
