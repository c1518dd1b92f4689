"""The shape and constants of a model, read from its config.json and checked.

Three styles are understood: the one that gpt-oss was published in (`rope_scaling` and `rope_theta`), that of
transformers 5 (`rope_parameters`), and OpenAI's `original/config.json` (`rope_scaling_factor`, `rope_ntk_beta`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, NoReturn, Self

from gptoss_cli.checkpoint.folder import load_json
from gptoss_cli.errors import IntegrityError

# The factor inside the experts' sigmoid: x * sigmoid(SWIGLU_ALPHA * x). It is the same in every gpt-oss model.
SWIGLU_ALPHA: Final = 1.702
# An MXFP4 block: 32 values of 4 bits each, which share one scale.
BLOCK_VALUES: Final = 32
BLOCK_BYTES: Final = 16
# Larger values are rejected as nonsense. The limits are about ten times gpt-oss-120b.
_MAX_WIDTH = 65_536
_MAX_LAYERS = 512
_MAX_EXPERTS = 4_096
_MAX_VOCABULARY = 4_194_304
_MAX_CONTEXT = 16_777_216


class LayerKind(StrEnum):
    """The cached positions that a layer attends to: the last few, or all."""

    SLIDING = "sliding_attention"
    FULL = "full_attention"


@dataclass(frozen=True, slots=True)
class Yarn:
    """Parameters of YaRN, which scales the rotary frequencies for a longer context (arXiv:2309.00071)."""

    factor: float
    beta_fast: float
    beta_slow: float
    original_context_tokens: int
    truncate: bool
    concentration: float


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding; without `yarn` the frequencies are plain powers of `theta`."""

    theta: float
    yarn: Yarn | None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape and constants of a gpt-oss model. The letters in the comments name tensor axes in docstrings."""

    hidden_size: int  # C
    intermediate_size: int  # F
    query_heads: int  # H
    kv_heads: int  # K
    head_dim: int  # D
    experts: int  # E
    active_experts: int  # A
    vocabulary_size: int  # V
    layer_kinds: tuple[LayerKind, ...]  # one per layer, L
    sliding_window: int  # keys that a query sees, its own included; 0 without sliding layers
    max_context_tokens: int
    norm_eps: float
    swiglu_limit: float
    rope: Rope

    @property
    def layers(self) -> int:
        """The number of layers, L."""
        return len(self.layer_kinds)


def load_config(path: Path) -> ModelConfig:
    """Read and check a config.json. Raises NotInstalledError if it is missing, IntegrityError if it is invalid."""
    values = load_json(path)
    reader = _Reader(path, values)
    if "rope_scaling_factor" in values:
        return _checked(reader, _original_config(reader))
    return _checked(reader, _hugging_face_config(reader))


def published_config(*, layers: int, experts: int) -> ModelConfig:
    """Return the config of a published gpt-oss: both differ in these numbers only (source: config.json of both)."""
    factor = 32.0
    return ModelConfig(
        hidden_size=2880,
        intermediate_size=2880,
        query_heads=64,
        kv_heads=8,
        head_dim=64,
        experts=experts,
        active_experts=4,
        vocabulary_size=201_088,
        layer_kinds=_alternating(layers),
        sliding_window=128,
        max_context_tokens=131_072,
        norm_eps=1e-5,
        swiglu_limit=7.0,
        rope=Rope(150_000.0, Yarn(factor, 32.0, 1.0, 4096, truncate=False, concentration=_concentration(factor))),
    )


class _Reader:
    """A reader of checked values from a JSON object. Every error names the file and the key."""

    def __init__(self, path: Path, values: Mapping[str, object], prefix: str = "") -> None:
        self._path, self._values, self._prefix = path, values, prefix

    def reject(self, key: str, problem: str) -> NoReturn:
        raise IntegrityError(f"{self._path}: {self._prefix}{key} {problem}")

    def has(self, key: str) -> bool:
        return self._values.get(key) is not None

    def get(self, key: str) -> object:
        return self._values.get(key)

    def one_of(self, *keys: str) -> str:
        """Return the synonym that is present, the first if none is. Raises IntegrityError if their values differ."""
        present = [key for key in keys if self.has(key)]
        if any(self._values[key] != self._values[present[0]] for key in present):
            self.reject(present[0], f"contradicts {present[1]}")
        return present[0] if present else keys[0]

    def integer(self, key: str, *, limit: int) -> int:
        value = self._values.get(key)
        if value is None:
            self.reject(key, "is missing")
        if isinstance(value, bool) or not isinstance(value, int):
            self.reject(key, f"should be a whole number, not {_shown(value)}")
        if not 1 <= value <= limit:
            self.reject(key, f"should be between 1 and {limit:,}, not {_shown(value)}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive finite number."""
        value = self._values.get(key)
        if value is None:
            value = default
        if value is None:
            self.reject(key, "is missing")
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.reject(key, f"should be a number, not {_shown(value)}")
        if not 0 < value < 1e30:
            self.reject(key, f"should be positive and finite, not {_shown(value)}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.reject(key, f"should be true or false, not {_shown(value)}")
        return value

    def section(self, key: str) -> Self:
        value = self._values.get(key)
        if not isinstance(value, dict):
            self.reject(key, "is missing" if value is None else f"should be an object, not {_shown(value)}")
        return type(self)(self._path, value, f"{self._prefix}{key}.")

    def must_be(self, key: str, allowed: object, *, default: object, rule: str) -> None:
        """Raise IntegrityError with `rule` unless the value, or `default` if there is none, is `allowed`."""
        value = self._values.get(key)
        if (default if value is None else value) != allowed:
            self.reject(key, f"is {_shown(value)}: {rule}")


def _shown(value: object) -> str:
    """Return a value from a file as text that is short and has no control characters."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):
        return "something too large to print"
    return text if len(text) <= 40 else text[:37] + "..."


def _hugging_face_config(read: _Reader) -> ModelConfig:
    _reject_other_architectures(read)
    layers = read.integer("num_hidden_layers", limit=_MAX_LAYERS)
    kinds = _layer_kinds(read, layers)
    return ModelConfig(
        hidden_size=read.integer("hidden_size", limit=_MAX_WIDTH),
        intermediate_size=read.integer("intermediate_size", limit=_MAX_WIDTH),
        query_heads=read.integer("num_attention_heads", limit=_MAX_WIDTH),
        kv_heads=read.integer("num_key_value_heads", limit=_MAX_WIDTH),
        head_dim=read.integer("head_dim", limit=_MAX_WIDTH),
        experts=read.integer(read.one_of("num_local_experts", "num_experts"), limit=_MAX_EXPERTS),
        active_experts=read.integer(read.one_of("num_experts_per_tok", "experts_per_token"), limit=_MAX_EXPERTS),
        vocabulary_size=read.integer("vocab_size", limit=_MAX_VOCABULARY),
        layer_kinds=kinds,
        sliding_window=read.integer("sliding_window", limit=_MAX_CONTEXT) if LayerKind.SLIDING in kinds else 0,
        max_context_tokens=read.integer("max_position_embeddings", limit=_MAX_CONTEXT),
        norm_eps=read.number("rms_norm_eps", 1e-5),
        swiglu_limit=read.number("swiglu_limit", 7.0),
        rope=_hugging_face_rope(read),
    )


def _original_config(read: _Reader) -> ModelConfig:
    """Read OpenAI's own style: layer 0 is sliding, layers alternate, and YaRN's correction range is not rounded."""
    layers = read.integer("num_hidden_layers", limit=_MAX_LAYERS)
    factor = read.number("rope_scaling_factor")
    original = read.integer("initial_context_length", limit=_MAX_CONTEXT)
    return ModelConfig(
        hidden_size=read.integer("hidden_size", limit=_MAX_WIDTH),
        intermediate_size=read.integer("intermediate_size", limit=_MAX_WIDTH),
        query_heads=read.integer("num_attention_heads", limit=_MAX_WIDTH),
        kv_heads=read.integer("num_key_value_heads", limit=_MAX_WIDTH),
        head_dim=read.integer("head_dim", limit=_MAX_WIDTH),
        experts=read.integer("num_experts", limit=_MAX_EXPERTS),
        active_experts=read.integer("experts_per_token", limit=_MAX_EXPERTS),
        vocabulary_size=read.integer("vocab_size", limit=_MAX_VOCABULARY),
        layer_kinds=_alternating(layers),
        sliding_window=read.integer("sliding_window", limit=_MAX_CONTEXT),
        max_context_tokens=min(_MAX_CONTEXT, round(original * max(1.0, factor))),
        norm_eps=1e-5,
        swiglu_limit=read.number("swiglu_limit", 7.0),
        rope=_original_rope(read, factor, original),
    )


def _reject_other_architectures(read: _Reader) -> None:
    read.must_be("model_type", "gpt_oss", default="gpt_oss", rule="only gpt_oss models can be run")
    read.must_be("tie_word_embeddings", False, default=False, rule="gpt-oss has a separate unembedding")
    read.must_be("attention_bias", True, default=True, rule="gpt-oss attention has biases")
    read.must_be("hidden_act", "silu", default="silu", rule="gpt-oss experts use silu")
    rule = f"gpt-oss experts use {SWIGLU_ALPHA}"
    read.must_be("swiglu_alpha", SWIGLU_ALPHA, default=SWIGLU_ALPHA, rule=rule)
    # It may be missing: a checkpoint that was saved again can be packed all the same. Names of tensors tell.
    if read.has("quantization_config"):
        read.section("quantization_config").must_be(
            "quant_method", "mxfp4", default=None, rule="only mxfp4 checkpoints can be run"
        )


def _layer_kinds(read: _Reader, layers: int) -> tuple[LayerKind, ...]:
    kinds = read.get("layer_types")
    if kinds is None:
        return _alternating(layers)
    if not isinstance(kinds, list) or len(kinds) != layers:
        read.reject("layer_types", f"should list the kinds of {layers} layers")
    known = [kind.value for kind in LayerKind]
    for kind in kinds:
        if kind not in known:
            read.reject("layer_types", f"has the unknown kind {_shown(kind)}; known are {' and '.join(known)}")
    return tuple(LayerKind(kind) for kind in kinds)


def _alternating(layers: int) -> tuple[LayerKind, ...]:
    return tuple(LayerKind.FULL if layer % 2 else LayerKind.SLIDING for layer in range(layers))


def _hugging_face_rope(read: _Reader) -> Rope:
    """Read either Hugging Face style. Missing RoPE settings are an error: transformers 4 and 5 disagree about them."""
    key = "rope_scaling" if read.has("rope_scaling") else "rope_parameters"
    rope = read.section(key)
    theta = (rope if rope.has("rope_theta") else read).number("rope_theta")
    for unsupported in ("partial_rotary_factor", "mscale", "mscale_all_dim"):
        if rope.has(unsupported):
            rope.reject(unsupported, "is not a setting of gpt-oss")
    kind = rope.get(rope.one_of("rope_type", "type"))
    if kind == "default":
        return Rope(theta, None)
    if kind != "yarn":
        rope.reject("rope_type", f"should be yarn or default, not {_shown(kind)}")
    factor = rope.number("factor")
    return Rope(
        theta,
        Yarn(
            factor=factor,
            beta_fast=rope.number("beta_fast", 32.0),
            beta_slow=rope.number("beta_slow", 1.0),
            original_context_tokens=rope.integer("original_max_position_embeddings", limit=_MAX_CONTEXT),
            truncate=rope.flag("truncate", True),
            concentration=rope.number("attention_factor", _concentration(factor)),
        ),
    )


def _original_rope(read: _Reader, factor: float, original_context_tokens: int) -> Rope:
    theta = read.number("rope_theta")
    if factor <= 1:
        return Rope(theta, None)
    return Rope(
        theta,
        Yarn(
            factor=factor,
            beta_fast=read.number("rope_ntk_beta"),
            beta_slow=read.number("rope_ntk_alpha"),
            original_context_tokens=original_context_tokens,
            truncate=False,
            concentration=_concentration(factor),
        ),
    )


def _concentration(factor: float) -> float:
    """Return the factor on rotated queries and keys, sqrt(1/t) in arXiv:2309.00071."""
    return 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1.0


def _checked(read: _Reader, config: ModelConfig) -> ModelConfig:
    """Return `config` if its numbers fit together. Raises IntegrityError."""
    for key, size in (("hidden_size", config.hidden_size), ("intermediate_size", config.intermediate_size)):
        if size % BLOCK_VALUES:
            read.reject(key, f"should be a multiple of {BLOCK_VALUES} (MXFP4 blocks), not {size}")
    if config.query_heads % config.kv_heads:
        read.reject("num_attention_heads", f"should be a multiple of the {config.kv_heads} kv heads")
    if config.head_dim % 2:
        read.reject("head_dim", f"should be even, not {config.head_dim}")
    if config.active_experts > config.experts:
        read.reject(
            read.one_of("num_experts_per_tok", "experts_per_token"),
            f"is {config.active_experts}, more than the {config.experts} experts",
        )
    if config.rope.theta <= 1:
        read.reject("rope_theta", f"should be above 1, not {config.rope.theta}")
    return config
