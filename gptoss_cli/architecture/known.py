"""The architecture of a decoder-only transformer as one value, and five published ones.

Every number is in the config.json that `source` names. Counts are not stored: count.py computes them.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum


class ModelType(StrEnum):
    """The families that can be counted, by `model_type` of config.json."""

    GPT2 = "gpt2"
    GPT_OSS = "gpt_oss"
    QWEN3_MOE = "qwen3_moe"


class Norm(StrEnum):
    """The normalisation layer. LayerNorm has a weight and a bias per channel, RMSNorm only a weight."""

    LAYER = "LayerNorm"
    RMS = "RMSNorm"


class Activation(StrEnum):
    """The feed-forward layer: GELU between two matrices, or SwiGLU with three."""

    GELU = "GELU"
    SWIGLU = "SwiGLU"


class WeightFormat(StrEnum):
    """The format of the matrices of the experts as published. Everything else is bfloat16."""

    BF16 = "bf16"
    MXFP4 = "MXFP4"


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """RoPE frequencies stretched to a longer context (YaRN, arXiv:2309.00071)."""

    factor: float
    original_context_tokens: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The shape of a model. The letters are those of the formulas.

    A dense model has no experts: `experts` and `active_experts` are 0, and `intermediate_size` is the width of its
    one feed-forward layer per block. `windows` has an entry per layer: the positions that it attends to, itself
    included, or 0 for all. `learned_positions` is 0 for a model with RoPE.
    """

    name: str
    model_type: ModelType
    source: str
    released: str = ""
    license: str = ""

    hidden_size: int  # C
    intermediate_size: int  # F
    query_heads: int  # H
    kv_heads: int  # K
    head_dim: int  # D
    experts: int = 0  # E
    active_experts: int = 0  # A
    vocabulary_size: int  # V
    windows: tuple[int, ...] = field(repr=False)  # one per layer, L
    max_context_tokens: int

    activation: Activation
    norm: Norm
    norm_eps: float
    dropout: float = 0.0
    attention_bias: bool = False
    sinks: bool = False  # a learned logit per query head
    qk_norm: bool = False
    feed_forward_bias: bool = False
    router_bias: bool = False
    tied_embedding: bool = False
    learned_positions: int = 0
    rope_theta: float | None = None
    yarn: YarnScaling | None = None
    expert_format: WeightFormat = WeightFormat.BF16

    @property
    def layers(self) -> int:
        """L."""
        return len(self.windows)

    @property
    def sliding_layers(self) -> int:
        """The number of layers with a window."""
        return sum(window > 0 for window in self.windows)

    @property
    def window(self) -> int:
        """The window of the sliding layers; 0 if there are none."""
        return max(self.windows)


def alternating_windows(layers: int, window: int) -> tuple[int, ...]:
    """Return the windows of gpt-oss: every second layer slides, beginning with the first."""
    return tuple(0 if layer % 2 else window for layer in range(layers))


GPT2_XL = Architecture(
    name="gpt2-xl",
    model_type=ModelType.GPT2,
    source="https://huggingface.co/openai-community/gpt2-xl/blob/main/config.json",
    released="2019",
    license="MIT-like",
    hidden_size=1_600,
    intermediate_size=6_400,
    query_heads=25,
    kv_heads=25,
    head_dim=64,
    vocabulary_size=50_257,
    windows=(0,) * 48,
    max_context_tokens=1_024,
    activation=Activation.GELU,
    norm=Norm.LAYER,
    norm_eps=1e-5,
    dropout=0.1,
    attention_bias=True,
    feed_forward_bias=True,
    tied_embedding=True,
    learned_positions=1_024,
)

GPT_OSS_20B = Architecture(
    name="gpt-oss-20b",
    model_type=ModelType.GPT_OSS,
    source="https://huggingface.co/openai/gpt-oss-20b/blob/main/config.json",
    released="2025-08",
    license="Apache-2.0",
    hidden_size=2_880,
    intermediate_size=2_880,
    query_heads=64,
    kv_heads=8,
    head_dim=64,
    experts=32,
    active_experts=4,
    vocabulary_size=201_088,
    windows=alternating_windows(24, 128),
    max_context_tokens=131_072,
    activation=Activation.SWIGLU,
    norm=Norm.RMS,
    norm_eps=1e-5,
    attention_bias=True,
    sinks=True,
    feed_forward_bias=True,
    router_bias=True,
    rope_theta=150_000.0,
    yarn=YarnScaling(factor=32.0, original_context_tokens=4_096),
    expert_format=WeightFormat.MXFP4,
)

GPT_OSS_120B = replace(
    GPT_OSS_20B,
    name="gpt-oss-120b",
    source="https://huggingface.co/openai/gpt-oss-120b/blob/main/config.json",
    experts=128,
    windows=alternating_windows(36, 128),
)

QWEN3_30B_A3B = Architecture(
    name="qwen3-30b-a3b",
    model_type=ModelType.QWEN3_MOE,
    source="https://huggingface.co/Qwen/Qwen3-30B-A3B/blob/main/config.json",
    released="2025-04",
    license="Apache-2.0",
    hidden_size=2_048,
    intermediate_size=768,
    query_heads=32,
    kv_heads=4,
    head_dim=128,
    experts=128,
    active_experts=8,
    vocabulary_size=151_936,
    windows=(0,) * 48,
    max_context_tokens=40_960,
    activation=Activation.SWIGLU,
    norm=Norm.RMS,
    norm_eps=1e-6,
    qk_norm=True,
    rope_theta=1_000_000.0,
)

QWEN3_235B_A22B = replace(
    QWEN3_30B_A3B,
    name="qwen3-235b-a22b",
    source="https://huggingface.co/Qwen/Qwen3-235B-A22B/blob/main/config.json",
    hidden_size=4_096,
    intermediate_size=1_536,
    query_heads=64,
    windows=(0,) * 94,
)

KNOWN = (GPT2_XL, QWEN3_30B_A3B, GPT_OSS_20B, GPT_OSS_120B, QWEN3_235B_A22B)
_BY_NAME = {architecture.name: architecture for architecture in KNOWN} | {
    "20b": GPT_OSS_20B,
    "120b": GPT_OSS_120B,
    "qwen3-30b": QWEN3_30B_A3B,
    "qwen3-235b": QWEN3_235B_A22B,
}


def find_architecture(name: str) -> Architecture | None:
    """Return the architecture with this name or alias, in any case, or None."""
    return _BY_NAME.get(name.lower())
