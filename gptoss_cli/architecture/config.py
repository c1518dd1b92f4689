"""Reading an Architecture from the config.json of a gpt2, gpt_oss or qwen3_moe checkpoint."""

from collections.abc import Mapping
from typing import NoReturn

from gptoss_cli.architecture.known import (
    Activation,
    Architecture,
    ModelType,
    Norm,
    WeightFormat,
    YarnScaling,
    alternating_windows,
)
from gptoss_cli.errors import IntegrityError, UsageError

_LARGEST = 1 << 24
_MOST_LAYERS = _MOST_EXPERTS = _MOST_HEADS = 4_096


def read_architecture(values: Mapping[str, object], *, name: str, path: str) -> Architecture:
    """Return the architecture that a config.json describes.

    `name` becomes its name, and `path` is what errors call the file. Raises UsageError for a model type or a variant
    that cannot be counted, IntegrityError for values that are missing, wrong or contradict each other.
    """
    read = _Reader(values, path)
    model_type = values.get("model_type")
    if model_type is None and "rope_scaling_factor" in values:
        model_type = ModelType.GPT_OSS  # OpenAI's own original/config.json has no model_type
    known = [kind.value for kind in ModelType]
    if model_type not in known:
        found = "no model_type" if model_type is None else f"model_type {_shown(model_type)}"
        raise UsageError(f"{path} has {found}; known are {', '.join(sorted(known))}")
    readers = {ModelType.GPT2: _gpt2, ModelType.GPT_OSS: _gpt_oss, ModelType.QWEN3_MOE: _qwen3_moe}
    model = readers[ModelType(str(model_type))](read, name)
    _check(read, model)
    return model


class _Reader:
    """Reads checked values from one JSON object. Every error names the file and the key."""

    def __init__(self, values: Mapping[str, object], path: str) -> None:
        self._values, self.path = values, path

    def refuse(self, key: str, problem: str) -> NoReturn:
        raise IntegrityError(f"{self.path}: {key} {problem}")

    def integer(self, *keys: str, default: int | None = None, least: int = 1, most: int = _LARGEST) -> int:
        """Return the value of the first of the synonyms that is present. Those that are must agree."""
        present = [key for key in keys if self._values.get(key) is not None]
        for key in present[1:]:
            if self._values[key] != self._values[present[0]]:
                self.refuse(present[0], f"contradicts {key}")
        if not present:
            if default is None:
                self.refuse(keys[0], "is missing")
            return default
        value = self._values[present[0]]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.refuse(present[0], f"should be a whole number from {least} to {most:,}, not {_shown(value)}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self._values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e30:
            self.refuse(key, f"should be a number from 0, not {_shown(value)}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._values.get(key)
        if value is not None and not isinstance(value, bool):
            self.refuse(key, f"should be true or false, not {_shown(value)}")
        return default if value is None else value

    def section(self, *keys: str) -> "_Reader":
        """Return the first of the objects that is present, or an empty one."""
        for key in keys:
            value = self._values.get(key)
            if isinstance(value, dict):
                return _Reader(value, self.path)
            if value is not None:
                self.refuse(key, f"should be an object, not {_shown(value)}")
        return _Reader({}, self.path)

    def get(self, key: str) -> object:
        return self._values.get(key)


def _gpt2(read: _Reader, name: str) -> Architecture:
    hidden, heads = read.integer("n_embd"), read.integer("n_head", most=_MOST_HEADS)
    if hidden % heads:
        read.refuse("n_embd", f"{hidden} is not divisible by the {heads} heads")
    positions = read.integer("n_positions", "n_ctx")
    return Architecture(
        name=name,
        model_type=ModelType.GPT2,
        source=read.path,
        hidden_size=hidden,
        intermediate_size=read.integer("n_inner", default=4 * hidden),
        query_heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        vocabulary_size=read.integer("vocab_size"),
        windows=(0,) * read.integer("n_layer", most=_MOST_LAYERS),
        max_context_tokens=positions,
        activation=Activation.GELU,
        norm=Norm.LAYER,
        norm_eps=read.number("layer_norm_epsilon", 1e-5),
        dropout=read.number("resid_pdrop", 0.1),
        attention_bias=True,
        feed_forward_bias=True,
        tied_embedding=read.flag("tie_word_embeddings", True),
        learned_positions=positions,
    )


def _gpt_oss(read: _Reader, name: str) -> Architecture:
    layers = read.integer("num_hidden_layers", most=_MOST_LAYERS)
    is_original = read.get("rope_scaling_factor") is not None
    theta, yarn, context = _original_rope(read) if is_original else (*_rope(read), None)
    packed = is_original or read.section("quantization_config").get("quant_method") == "mxfp4"
    return Architecture(
        name=name,
        model_type=ModelType.GPT_OSS,
        source=read.path,
        hidden_size=read.integer("hidden_size"),
        intermediate_size=read.integer("intermediate_size"),
        query_heads=read.integer("num_attention_heads", most=_MOST_HEADS),
        kv_heads=read.integer("num_key_value_heads"),
        head_dim=read.integer("head_dim"),
        experts=read.integer("num_local_experts", "num_experts", most=_MOST_EXPERTS),
        active_experts=read.integer("num_experts_per_tok", "experts_per_token"),
        vocabulary_size=read.integer("vocab_size"),
        windows=_windows(read, layers),
        max_context_tokens=read.integer("max_position_embeddings", default=context),
        activation=Activation.SWIGLU,
        norm=Norm.RMS,
        norm_eps=read.number("rms_norm_eps", 1e-5),
        dropout=read.number("attention_dropout", 0.0),
        attention_bias=read.flag("attention_bias", True),
        sinks=True,
        feed_forward_bias=True,
        router_bias=True,
        tied_embedding=read.flag("tie_word_embeddings", False),
        rope_theta=theta,
        yarn=yarn,
        expert_format=WeightFormat.MXFP4 if packed else WeightFormat.BF16,
    )


def _qwen3_moe(read: _Reader, name: str) -> Architecture:
    layers = read.integer("num_hidden_layers", most=_MOST_LAYERS)
    dense = read.integer("decoder_sparse_step", default=1) != 1 or read.get("mlp_only_layers") not in (None, [])
    if dense or read.flag("use_sliding_window", False):
        raise UsageError(f"{read.path} mixes kinds of layers, which is not known for qwen3_moe")
    theta, yarn = _rope(read)
    heads, hidden = read.integer("num_attention_heads", most=_MOST_HEADS), read.integer("hidden_size")
    return Architecture(
        name=name,
        model_type=ModelType.QWEN3_MOE,
        source=read.path,
        hidden_size=hidden,
        intermediate_size=read.integer("moe_intermediate_size"),
        query_heads=heads,
        kv_heads=read.integer("num_key_value_heads"),
        head_dim=read.integer("head_dim", default=max(1, hidden // heads)),
        experts=read.integer("num_experts", "num_local_experts", most=_MOST_EXPERTS),
        active_experts=read.integer("num_experts_per_tok"),
        vocabulary_size=read.integer("vocab_size"),
        windows=(0,) * layers,
        max_context_tokens=read.integer("max_position_embeddings"),
        activation=Activation.SWIGLU,
        norm=Norm.RMS,
        norm_eps=read.number("rms_norm_eps", 1e-6),
        dropout=read.number("attention_dropout", 0.0),
        attention_bias=read.flag("attention_bias", False),
        qk_norm=True,
        tied_embedding=read.flag("tie_word_embeddings", False),
        rope_theta=theta,
        yarn=yarn,
    )


def _windows(read: _Reader, layers: int) -> tuple[int, ...]:
    kinds = read.get("layer_types")
    window = read.integer("sliding_window", default=0, least=0)
    if kinds is None:
        return alternating_windows(layers, window)
    if not isinstance(kinds, list) or len(kinds) != layers:
        read.refuse("layer_types", f"should list the kinds of {layers} layers")
    for kind in kinds:
        if kind not in ("sliding_attention", "full_attention"):
            read.refuse("layer_types", f"has the unknown kind {_shown(kind)}")
    if "sliding_attention" in kinds and not window:
        read.refuse("sliding_window", "is missing")
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def _rope(read: _Reader) -> tuple[float, YarnScaling | None]:
    """Read RoPE from `rope_scaling` and `rope_theta`, or from the `rope_parameters` of transformers 5."""
    scaling = read.section("rope_scaling", "rope_parameters")
    theta = (scaling if scaling.get("rope_theta") is not None else read).number("rope_theta", 10_000.0)
    if (scaling.get("rope_type") or scaling.get("type")) != "yarn":
        return theta, None
    return theta, YarnScaling(
        factor=scaling.number("factor", 1.0),
        original_context_tokens=scaling.integer("original_max_position_embeddings"),
        beta_fast=scaling.number("beta_fast", 32.0),
        beta_slow=scaling.number("beta_slow", 1.0),
        truncate=scaling.flag("truncate", True),
    )


def _original_rope(read: _Reader) -> tuple[float, YarnScaling | None, int]:
    """Read RoPE and the longest context from OpenAI's own file."""
    factor, original = read.number("rope_scaling_factor", 1.0), read.integer("initial_context_length")
    theta = read.number("rope_theta", 150_000.0)
    if factor <= 1:
        return theta, None, original
    fast, slow = read.number("rope_ntk_beta", 32.0), read.number("rope_ntk_alpha", 1.0)
    return theta, YarnScaling(factor, original, fast, slow), round(original * factor)


def _check(read: _Reader, model: Architecture) -> None:
    """Refuse numbers that contradict each other."""
    if model.query_heads % model.kv_heads:
        read.refuse("num_attention_heads", f"{model.query_heads} is not a multiple of the {model.kv_heads} kv heads")
    if model.active_experts > model.experts:
        read.refuse("num_experts_per_tok", f"is {model.active_experts}, more than the {model.experts} experts")
    if model.rope_theta is not None and model.rope_theta <= 1:
        read.refuse("rope_theta", f"should be above 1, not {model.rope_theta:g}")
    if model.yarn and min(model.yarn.factor, model.yarn.beta_fast, model.yarn.beta_slow) <= 0:
        read.refuse("rope_scaling", "should have a factor and betas above 0")
    if model.head_dim % 2 and not model.learned_positions:
        read.refuse("head_dim", f"should be even for RoPE, not {model.head_dim}")


def _shown(value: object) -> str:
    """Return a value from a file, short and without control characters."""
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
