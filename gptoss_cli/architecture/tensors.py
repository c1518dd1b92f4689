"""The parts of a model, and the tensors of a checkpoint sorted into them.

Only names, dtypes and shapes are needed, as the header of a safetensors file has them.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from gptoss_cli.architecture import count
from gptoss_cli.architecture.known import Architecture, WeightFormat
from gptoss_cli.files import SAFETENSORS_ITEM_BYTES

MXFP4 = "MXFP4"


class Part(StrEnum):
    """The parts that parameters are counted by."""

    EMBEDDING = "embedding"
    POSITIONS = "positions"
    ATTENTION = "attention"
    EXPERTS = "experts"
    ROUTER = "router"
    NORMS = "norms"
    UNEMBEDDING = "unembedding"
    OTHER = "other tensors"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file. `dtype` is a safetensors name."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * SAFETENSORS_ITEM_BYTES[self.dtype]

    @property
    def parameters(self) -> int:
        """The number of weights: two in each byte of MXFP4 blocks, none in their scales."""
        if self.is_blocks:
            return 2 * math.prod(self.shape)
        return 0 if self.is_scales else math.prod(self.shape)

    @property
    def is_blocks(self) -> bool:
        return self.dtype == "U8" and self.name.endswith(("_blocks", ".blocks"))

    @property
    def is_scales(self) -> bool:
        return self.dtype == "U8" and self.name.endswith(("_scales", ".scales"))

    @property
    def format(self) -> str:
        """The dtype, or MXFP4 for packed weights."""
        return MXFP4 if self.is_blocks or self.is_scales else self.dtype

    @property
    def layer(self) -> int | None:
        """The index of the layer that the tensor belongs to, or None."""
        match = re.search(r"(?:layers|block|h)\.(\d+)\.", self.name)
        return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class PartSize:
    """The parameters and bytes of one part, and the formats that they are stored in."""

    part: Part
    parameters: int
    size_bytes: int
    formats: tuple[str, ...]


# The first pattern that is found in the name of a tensor decides. Layouts: Hugging Face's of the three families, and
# OpenAI's own of gpt-oss.
_PATTERNS = (
    (Part.OTHER, r"\.attn\.(bias|masked_bias)$"),  # GPT-2's causal mask, not a weight
    (Part.EMBEDDING, r"^(model\.embed_tokens|(transformer\.)?wte|embedding)\."),
    (Part.POSITIONS, r"^(transformer\.)?wpe\."),
    (Part.UNEMBEDDING, r"^(lm_head|unembedding)\."),
    (Part.ATTENTION, r"\.self_attn\.|\.attn\.(qkv|out|sinks|c_attn|c_proj)"),
    (Part.ROUTER, r"\.mlp\.(router|gate)\."),
    (Part.EXPERTS, r"\.mlp\.(experts|mlp[12]_|c_fc|c_proj)"),
    (Part.NORMS, r"(^|\.)(norm|ln_f|ln_[12]|input_layernorm|post_attention_layernorm)\."),
)


def part_of(name: str) -> Part:
    """Return the part that a tensor belongs to, by its name."""
    return next((part for part, pattern in _PATTERNS if re.search(pattern, name)), Part.OTHER)


def stored_parts(tensors: Iterable[Tensor]) -> list[PartSize]:
    """Return the parts that `tensors` hold, in the order of Part."""
    found: dict[Part, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(part_of(tensor.name), []).append(tensor)
    return [
        PartSize(
            part,
            sum(tensor.parameters for tensor in found[part]),
            sum(tensor.size_bytes for tensor in found[part]),
            tuple(sorted({tensor.format for tensor in found[part]})),
        )
        for part in Part
        if part in found
    ]


def counted_parts(model: Architecture) -> list[PartSize]:
    """Return the parts of a model by its architecture, in the published format."""
    counts = part_parameters(model)
    packed = model.expert_format is WeightFormat.MXFP4
    parts = []
    for part, parameters in counts.items():
        size_bytes = count.BF16_BYTES * parameters
        formats: tuple[str, ...] = ("BF16",)
        if part is Part.EXPERTS and packed:
            biases = model.layers * model.experts * count.expert_biases(model)
            size_bytes = count.packed_experts_bytes(model) + count.BF16_BYTES * biases
            formats = ("BF16", MXFP4) if biases else (MXFP4,)
        parts.append(PartSize(part, parameters, size_bytes, formats))
    return parts


def part_parameters(model: Architecture) -> dict[Part, int]:
    """Return the parameters of each part that the model has."""
    counts: dict[Part, int] = {
        Part.EMBEDDING: count.embedding_parameters(model),
        Part.POSITIONS: count.position_parameters(model),
        Part.ATTENTION: count.attention_parameters(model),
        Part.EXPERTS: count.experts_parameters(model),
        Part.ROUTER: count.router_parameters(model),
        Part.NORMS: count.norm_parameters(model),
        Part.UNEMBEDDING: count.unembedding_parameters(model),
    }
    return {part: parameters for part, parameters in counts.items() if parameters}


def contradictions(model: Architecture, stored: Iterable[PartSize]) -> list[str]:
    """Return a sentence for each part whose stored parameters differ from those of the config."""
    held: dict[Part, int] = {size.part: size.parameters for size in stored}
    counted = part_parameters(model)
    if model.tied_embedding:
        held.pop(Part.UNEMBEDDING, None)  # some files hold the embedding twice
    return [
        f"{part}: {held.get(part, 0):,} parameters in the headers, {counted.get(part, 0):,} by config.json"
        for part in Part
        if part is not Part.OTHER and held.get(part, 0) != counted.get(part, 0)
    ]
