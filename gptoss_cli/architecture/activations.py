"""The activation functions of the feed-forward layers, for numbers: GELU, Swish, and the gated unit of gpt-oss."""

import math

_SAMPLES = (-3, -2, -1, 0, 1, 2, 3)
_GPT_OSS_ALPHA, _GPT_OSS_LIMIT = 1.702, 7.0


def gelu(x: float) -> float:
    """Return 0.5*x*(1 + erf(x/sqrt(2))) (arXiv:1606.08415)."""
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def swish(x: float, alpha: float = 1.0) -> float:
    """Return x*sigmoid(alpha*x) (arXiv:1710.05941)."""
    return x / (1 + math.exp(-alpha * x))


def gpt_oss_unit(gate: float, up: float) -> float:
    """Return (up + 1)*gate*sigmoid(1.702*gate), with gate at most 7 and up within -7 and 7.

    Source: `swiglu` in gpt_oss/torch/model.py of https://github.com/openai/gpt-oss.
    """
    gate = min(gate, _GPT_OSS_LIMIT)
    up = max(-_GPT_OSS_LIMIT, min(up, _GPT_OSS_LIMIT))
    return (up + 1) * swish(gate, _GPT_OSS_ALPHA)


def activation_table() -> str:
    """Return the functions, and their values at a few points, as lines of at most 60 columns."""
    rows = [
        "GELU(x) = 0.5*x*(1 + erf(x/sqrt(2))); Swish(x) = x*sigmoid(x).",
        "SwiGLU: Swish(gate)*up, with gate and up from two matrices.",
        "gpt-oss: (up + 1)*gate*sigmoid(1.702*gate), clamped at 7.",
        f"{'x':8}" + "".join(f"{x:7}" for x in _SAMPLES),
    ]
    for name, values in (
        ("GELU", [gelu(x) for x in _SAMPLES]),
        ("Swish", [swish(x) for x in _SAMPLES]),
        ("gpt-oss", [gpt_oss_unit(x, 0) for x in _SAMPLES]),
    ):
        rows.append(f"{name:8}" + "".join(f"{value:7.3f}" for value in values))
    return "\n".join(rows)
