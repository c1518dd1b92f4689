"""Each formula that is printed gives the value that is printed; the rows of the table say what the article says."""

import math

import pytest

from gptoss_cli.architecture.figures import show
from gptoss_cli.architecture.formulas import SYMBOLS, operands, readable, substituted
from gptoss_cli.architecture.known import (
    GPT2_XL,
    GPT_OSS_20B,
    GPT_OSS_120B,
    KNOWN,
    QWEN3_30B_A3B,
    QWEN3_235B_A22B,
    Architecture,
)
from gptoss_cli.architecture.rows import BY_KEY, FIGURES, find_figures

_WITH_FORMULA = [figure.key for figure in FIGURES if figure.formula]
_TIMES = "\N{MULTIPLICATION SIGN}"
_MODELS = (GPT2_XL, GPT_OSS_20B, GPT_OSS_120B, QWEN3_30B_A3B, QWEN3_235B_A22B)


@pytest.mark.parametrize("key", _WITH_FORMULA)
@pytest.mark.parametrize("model", KNOWN, ids=lambda model: model.name)
@pytest.mark.parametrize("context_tokens", [100, 4_096])
def test_a_formula_gives_the_value_of_its_figure(key: str, model: Architecture, context_tokens: int) -> None:
    figure = BY_KEY[key]
    values = {name: value or 0 for name, value in operands(figure, model, context_tokens)}
    computed = eval(figure.formula, {"comb": math.comb, "min": min}, values)
    value = figure.compute(model, context_tokens)
    if value is None:
        assert computed == 0 or model.expert_format == "bf16"
    else:
        assert computed == pytest.approx(value, rel=1e-12)


def test_the_names_of_a_formula_are_letters_or_keys() -> None:
    assert not set(SYMBOLS) & set(BY_KEY)
    assert len(BY_KEY) == len(FIGURES)


# The rows of a table of the five configurations, as printed.
_ROWS: dict[str, str] = {
    "parameters": "1,557,611,200 | 20,914,757,184 | 116,829,156,672 | 30,532,122,624 | 235,093,634,560",
    "relative_parameters": "1 | 13 | 75 | 20 | 151",
    "released": "2019 | 2025-08 | 2025-08 | 2025-04 | 2025-04",
    "layers": "48 | 24 | 36 | 48 | 94",
    "hidden": "1,600 | 2,880 | 2,880 | 2,048 | 4,096",
    "width_to_depth": "33 | 120 | 80 | 43 | 44",
    "query_heads": "25 | 64 | 64 | 32 | 64",
    "kv_heads": "25 | 8 | 8 | 4 | 4",
    "queries_per_kv": "1 | 8 | 8 | 8 | 16",
    "head_dim": "64 | 64 | 64 | 128 | 128",
    "attention_width": "1 | 1.42 | 1.42 | 2 | 2",
    "attention_bias": "yes | yes | yes | no | no",
    "sinks": "- | 1,536 | 2,304 | - | -",
    "qk_norm": "no | no | no | yes | yes",
    "sliding_layers": "- | 12 | 18 | - | -",
    "window": "- | 128 | 128 | - | -",
    "full_layers": "48 | 12 | 18 | 48 | 94",
    "feed_forward": "GELU | SwiGLU experts | SwiGLU experts | SwiGLU experts | SwiGLU experts",
    "experts_per_layer": "- | 32 | 128 | 128 | 128",
    "active_experts": "- | 4 | 4 | 8 | 8",
    "intermediate": "6,400 | 2,880 | 2,880 | 768 | 1,536",
    "active_width": "6,400 | 11,520 | 11,520 | 6,144 | 12,288",
    "active_width_ratio": "4 | 4 | 4 | 3 | 3",
    "combinations": "- | 35,960 | 10,668,000 | 1.43e12 | 1.43e12",
    "norm": "LayerNorm | RMSNorm | RMSNorm | RMSNorm | RMSNorm",
    "norm_eps": "1e-05 | 1e-05 | 1e-05 | 1e-06 | 1e-06",
    "positions_kind": "learned 1,024 | RoPE | RoPE | RoPE | RoPE",
    "rope_theta": "- | 150,000 | 150,000 | 1,000,000 | 1,000,000",
    "yarn": "- | x32 of 4,096 | x32 of 4,096 | - | -",
    "context": "1,024 | 131,072 | 131,072 | 40,960 | 40,960",
    "vocabulary": "50,257 | 201,088 | 201,088 | 151,936 | 151,936",
    "tied": "yes | no | no | no | no",
    "dropout": "0.1 | - | - | - | -",
    "license": "MIT-like | Apache-2.0 | Apache-2.0 | Apache-2.0 | Apache-2.0",
    "active_published": "- | 3.61 B, -0.05 % | 5.13 B, +0.06 % | 3 B, +11.77 % | 22 B, +0.87 %",
    "kv_at_context": "- | 771 MiB | 1,156.5 MiB | 3,072 MiB | 6,016 MiB",
    "flop_attention": "- | 6.47 G | 9.70 G | 25.77 G | 100.93 G",
    "mxfp4": "- | 13.76 GB | 65.25 GB | - | -",
    "bits": "16 | 5.26 | 4.47 | 16 | 16",
    "kv_full": "307,200 B | 49,152 B | 73,728 B | 98,304 B | 192,512 B",
    "kv_windows": "- | 3 MiB | 4.5 MiB | - | -",
    "experts_share": "63.1 % | 91.4 % | 98.2 % | 95.0 % | 96.6 %",
}


@pytest.mark.parametrize("key", _ROWS)
def test_a_row_is_printed_as_in_the_table(key: str) -> None:
    figure = BY_KEY[key]
    row = " | ".join(show(value, figure.unit) for value in figure.values(_MODELS, 32_768))
    assert row.replace(_TIMES, "x") == _ROWS[key]


def test_figures_are_found_by_part_of_their_label() -> None:
    assert [f.key for f in find_figures("Active  Parameters")] == ["active"]
    assert [f.key for f in find_figures("kv_at_context_full")] == ["kv_at_context_full"]
    assert find_figures("") == find_figures("no such figure") == []


def test_a_formula_is_shown_with_its_operands() -> None:
    figure = BY_KEY["kv_full"]
    assert readable(figure.formula).replace(_TIMES, "x") == "2 x L x K x D x 2"
    assert substituted(figure, GPT_OSS_20B, 1).replace(_TIMES, "x") == "2 x 24 x 8 x 64 x 2"
    assert readable(BY_KEY["active"].formula).replace(_TIMES, "x") == "active, embedding too - u x embedding"
