"""The weights of a model, mapped from the files of a checkpoint once all names, shapes and dtypes have been checked.

On the CPU a tensor is a view of its file's pages: nothing is copied, converted or rearranged. Letters in shapes: C
hidden, F intermediate, H query heads, K kv heads, D head dim, E experts, V vocabulary, G blocks per row.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptoss_cli.checkpoint.header import check_tensors
from gptoss_cli.engine.device_errors import is_out_of_memory, resource_error
from gptoss_cli.engine.expert_offload import PackedExperts, PlacedExperts, Residency, SlotTables, place_layer
from gptoss_cli.engine.pinned_memory import PinnedRows, PinningError, pinned_rows
from gptoss_cli.errors import Hint, IntegrityError, ResourceError, first_line
from gptoss_cli.placement.model_config import BLOCK_VALUES, ModelConfig
from gptoss_cli.placement.placement import KernelSet, Placement
from gptoss_cli.placement.tensor_specs import Layout, Names, expected_tensors, names

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Int8Matrix:
    """A matrix with 8 bits per weight: values [rows, G * 32] i8 times scales [rows, G] bf16, one per 32 values.

    Columns beyond those of the matrix are 0.
    """

    values: Tensor
    scales: Tensor

    def __len__(self) -> int:
        return len(self.values)

    @property
    def nbytes(self) -> int:
        """The bytes of values and scales."""
        return self.values.nbytes + self.scales.nbytes


Rows = Tensor | Int8Matrix  # a matrix [rows, columns], bf16 or int8
Experts = PackedExperts | PlacedExperts


@dataclass(frozen=True, slots=True)
class Linear:
    """A dense layer, y = x @ weight.T + bias, with weight [rows, columns] and bias [rows] bf16."""

    weight: Rows
    bias: Tensor


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    """The attention of a layer: norm [C], query [H*D, C], key and value [K*D, C], output [C, H*D], sinks [H]; bf16."""

    norm: Tensor
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    sinks: Tensor

    @property
    def joined_qkv(self) -> Linear | None:
        """Query, key and value as one layer, if their rows follow one another in memory."""
        parts = self.query, self.key, self.value
        weight, bias = _joined([part.weight for part in parts]), _joined([part.bias for part in parts])
        return None if weight is None or bias is None else Linear(weight, bias)


@dataclass(frozen=True, slots=True)
class MlpWeights:
    """The experts of a layer: norm [C]; router [E, C]; gate_up, 2F rows, gate in even rows, up in odd; down, C rows."""

    norm: Tensor
    router: Linear
    gate_up: Experts
    down: Experts


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The weights of one layer."""

    attention: AttentionWeights
    mlp: MlpWeights


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """The weights of a model: embedding and unembedding [V, C], final_norm [C], and the layers.

    If the embedding is not on the device that computes, it is PinnedRows for the Triton kernels.
    """

    embedding: Tensor | PinnedRows
    layers: tuple[LayerWeights, ...]
    final_norm: Tensor
    unembedding: Rows

    def placed_experts(self) -> list[tuple[PlacedExperts, PlacedExperts]]:
        """Return gate_up and down of each layer whose experts were placed for a GPU."""
        pairs = [(layer.mlp.gate_up, layer.mlp.down) for layer in self.layers]
        return [(up, down) for up, down in pairs if isinstance(up, PlacedExperts) and isinstance(down, PlacedExperts)]


def _joined(parts: Sequence[Rows]) -> Tensor | None:
    """Return the rows of all parts as one view, None if one of them does not begin where the one before it ends."""
    tensors = [part for part in parts if isinstance(part, Tensor) and part.is_contiguous()]
    if len(tensors) < len(parts):
        return None
    for before, after in pairwise(tensors):
        is_next = after.storage_offset() == before.storage_offset() + before.numel()
        if not is_next or after.untyped_storage()._cdata != before.untyped_storage()._cdata:
            return None
    first = tensors[0]
    return first.as_strided((sum(map(len, tensors)), *first.shape[1:]), first.stride())


def float_rows(matrix: Rows, start: int, end: int, *, columns: int) -> Tensor:
    """Return rows `start` to `end` of a matrix with `columns` columns, as float32."""
    if isinstance(matrix, Tensor):
        return matrix[start:end].float()
    scales = matrix.scales[start:end].float()
    blocks = matrix.values[start:end].view(*scales.shape, BLOCK_VALUES)
    return (blocks * scales.unsqueeze(-1)).flatten(1)[:, :columns]


def load_weights(
    folder: Path,
    config: ModelConfig,
    placement: Placement | None = None,
    *,
    notice: Callable[[str], None] | None = None,
) -> ModelWeights:
    """Map the tensors of `folder`, which may have either layout, and copy them to the device of `placement`.

    Without a placement, or on the CPU, they stay mapped. `notice` is that of `assemble`. Raises NotInstalledError if a
    shard is missing, IntegrityError if a file contradicts `config`, and ResourceError if the device has too little
    memory.
    """
    layouts = list(Layout)
    checked = check_tensors(folder, [expected_tensors(config, layout) for layout in layouts])
    if checked.unexpected:
        first = ascii(checked.unexpected[0])
        _log.warning("%s: ignored %d unexpected tensors, first %s", folder, len(checked.unexpected), first)
    files = _MappedFiles(checked.files)
    try:
        return assemble(config, names(layouts[checked.layout]), files.tensor, placement, notice=notice)
    except (RuntimeError, MemoryError) as exc:
        error = resource_error(exc)
        if error is None:
            raise
        if is_out_of_memory(exc):
            message = f"The weights in {folder} do not fit on the GPU"
            error = ResourceError(message, Hint.OFFLOAD, Hint.LESS_GPU_MEMORY, Hint.CPU)
        raise error from exc


class _File(Protocol):
    """The part of safetensors' untyped `safe_open` that is used."""

    def get_tensor(self, name: str) -> Tensor: ...


class _MappedFiles:
    """Tensors by name in mapped files. Headers have been checked before."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        """`files` has the file of each tensor."""
        self.files = files
        self._opened: dict[Path, _File] = {}

    def tensor(self, name: str) -> Tensor:
        """Return the tensor as a view of its file's pages. Raises IntegrityError if the file cannot be mapped."""
        path = self.files[name]
        if path not in self._opened:
            try:
                self._opened[path] = safe_open(path, framework="pt")
            except (SafetensorError, OSError, RuntimeError) as exc:
                raise IntegrityError(f"{path} cannot be mapped: {ascii(first_line(exc))[1:-1]}") from exc
        return self._opened[path].get_tensor(name)


def _device(placement: Placement | None) -> str:
    return "cpu" if placement is None else placement.device


def assemble(
    config: ModelConfig,
    name: Names,
    mapped: Callable[[str], Tensor],
    placement: Placement | None,
    *,
    notice: Callable[[str], None] | None = None,
) -> ModelWeights:
    """Put together the weights that `mapped` gives by their names in a layout, on the device of `placement`.

    If not all experts can be pinned in host memory, only those that are not on the GPU are, and `notice` is called with
    a line about it. Windows' display driver pins half of the memory at most.
    """
    try:
        return _assemble(config, name, mapped, placement)
    except PinningError as exc:
        if placement is None or placement.weights is None or not placement.weights.host_keeps_all:
            raise
        if placement.weights.gpu_experts >= config.layers * config.experts:
            raise  # it was the embedding
        words = f"{exc}. So the GPU always holds the same experts, and decodes more slowly"
        (notice or _log.warning)(words)
    fewer = replace(placement, weights=replace(placement.weights, host_keeps_all=False))
    return _assemble(config, name, mapped, fewer)


def _assemble(
    config: ModelConfig, name: Names, mapped: Callable[[str], Tensor], placement: Placement | None
) -> ModelWeights:
    device = _device(placement)

    def load(key: str) -> Tensor:
        return mapped(key).to(device)

    mlps = _assemble_mlps(config, name, mapped, placement)
    return ModelWeights(
        embedding=_embedding(mapped(name.embedding), placement),
        layers=tuple(
            LayerWeights(_assemble_attention(config, name, load, layer), next(mlps)) for layer in range(config.layers)
        ),
        final_norm=load(name.final_norm),
        unembedding=load(name.unembedding),
    )


def _embedding(mapped: Tensor, placement: Placement | None) -> Tensor | PinnedRows:
    if placement is None or placement.weights is None or placement.weights.embedding_on_gpu:
        return mapped.to(_device(placement))
    return pinned_rows(mapped, torch.device(placement.device)) if placement.kernels is KernelSet.TRITON else mapped


def _assemble_attention(
    config: ModelConfig, name: Names, load: Callable[[str], Tensor], layer: int
) -> AttentionWeights:
    parts = [_linear(load, part, layer) for part in name.qkv]
    if parts[0].bias.is_cuda:
        parts = [_one_layer(parts)]  # one product takes less time than three
    query, key, value = _split_qkv(config, parts)
    return AttentionWeights(
        norm=load(name.attention_norm.format(layer)),
        query=query,
        key=key,
        value=value,
        output=_linear(load, name.output, layer),
        sinks=load(name.sinks.format(layer)),
    )


def _assemble_mlps(
    config: ModelConfig, name: Names, mapped: Callable[[str], Tensor], placement: Placement | None
) -> Iterator[MlpWeights]:
    """Yield the experts of one layer after another, each when it is asked for."""
    device = torch.device(_device(placement))
    place = _placing(config, placement, device)

    def load(key: str) -> Tensor:
        return mapped(key).to(device)

    for layer in range(config.layers):
        gate_up, down = (
            PackedExperts(*map(load if place is None else mapped, _expert_keys(weight, bias, name, layer)))
            for weight, bias in ((name.gate_up, name.gate_up_bias), (name.down, name.down_bias))
        )
        yield MlpWeights(
            load(name.mlp_norm.format(layer)),
            _linear(load, name.router, layer),
            *((gate_up, down) if place is None else place(gate_up, down, layer)),
        )


def _expert_keys(weight: str, bias: str, name: Names, layer: int) -> tuple[str, str, str]:
    key = weight.format(layer)
    return key + name.blocks, key + name.scales, bias.format(layer)


_Place = Callable[[PackedExperts, PackedExperts, int], tuple[PlacedExperts, PlacedExperts]]


def _placing(config: ModelConfig, placement: Placement | None, device: torch.device) -> _Place | None:
    """Return a function that places the experts of a layer for the Triton kernels, None for other kernels."""
    if placement is None or placement.weights is None or placement.kernels is not KernelSet.TRITON:
        return None
    chosen, tables = placement.weights, SlotTables(config.layers, config.experts, device)
    residency = Residency.RECENT if chosen.host_keeps_all else Residency.FIXED
    if chosen.gpu_experts >= config.layers * config.experts:
        residency = Residency.ALL

    def place(gate_up: PackedExperts, down: PackedExperts, layer: int) -> tuple[PlacedExperts, PlacedExperts]:
        slots = tables.layer(layer, chosen.experts_of_layer(layer, config.layers), residency)
        return place_layer(gate_up, down, device, slots)

    return place


def _linear(load: Callable[[str], Tensor], name: str, layer: int) -> Linear:
    key = name.format(layer)
    return Linear(load(f"{key}.weight"), load(f"{key}.bias"))


def _one_layer(parts: list[Linear]) -> Linear:
    """Return a copy of the rows of all parts as one layer."""
    weights = [part.weight for part in parts if isinstance(part.weight, Tensor)]
    return Linear(torch.cat(weights), torch.cat([part.bias for part in parts]))


def _split_qkv(config: ModelConfig, parts: list[Linear]) -> list[Linear]:
    """Return q, k and v, as views if the checkpoint has them in one matrix."""
    if len(parts) == 3:
        return parts
    (fused,) = parts
    weight = fused.weight
    assert isinstance(weight, Tensor), "a checkpoint holds bf16"
    query, key_value = config.query_heads * config.head_dim, config.kv_heads * config.head_dim
    bounds = pairwise((0, query, query + key_value, query + 2 * key_value))
    return [Linear(weight[start:end], fused.bias[start:end]) for start, end in bounds]
