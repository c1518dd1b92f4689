"""The tensors of a checkpoint, mapped from its files. Every name, shape and dtype is checked before any is touched.

On the CPU a tensor is a view of the file's pages: nothing is copied, converted or rearranged.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptoss_cli.checkpoint.folder import INDEX, read_index, safetensors_files, what_it_is
from gptoss_cli.engine.expert_offload import PackedExperts, PlacedExperts
from gptoss_cli.errors import Hint, IntegrityError, NotInstalledError, ResourceError
from gptoss_cli.placement.model_config import BLOCK_VALUES, ModelConfig
from gptoss_cli.placement.placement import KernelSet, Placement
from gptoss_cli.placement.tensor_specs import Layout, Names, TensorSpec, expected_tensors, names

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Int8Matrix:
    """values [rows, G * 32] i8 times factors [rows, G] bf16, one for each 32; columns past the matrix's own are 0."""

    values: Tensor
    factors: Tensor

    def __len__(self) -> int:
        return len(self.values)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.factors.nbytes


Rows = Tensor | Int8Matrix  # a matrix [rows, columns], bf16 or int8
Experts = PackedExperts | PlacedExperts


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x @ weight.T + bias; weight [rows, columns] and bias [rows] bf16."""

    weight: Rows
    bias: Tensor


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    """norm [C]; query [H*D, C]; key and value [K*D, C]; output [C, H*D]; sinks [H]. All bf16."""

    norm: Tensor
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    sinks: Tensor


@dataclass(frozen=True, slots=True)
class MlpWeights:
    """norm [C]; router [E, C]; gate_up, 2F rows of which even ones are gate and odd ones up; down, C rows."""

    norm: Tensor
    router: Linear
    gate_up: Experts
    down: Experts


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer."""

    attention: AttentionWeights
    mlp: MlpWeights


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """embedding and unembedding [V, C], final_norm [C]; and the layers."""

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    final_norm: Tensor
    unembedding: Rows

    def placed_experts(self) -> list[tuple[PlacedExperts, PlacedExperts]]:
        """Return gate_up and down of each layer whose experts were placed for a GPU."""
        pairs = [(layer.mlp.gate_up, layer.mlp.down) for layer in self.layers]
        return [(up, down) for up, down in pairs if isinstance(up, PlacedExperts) and isinstance(down, PlacedExperts)]


def float_rows(matrix: Rows, start: int, end: int, *, columns: int) -> Tensor:
    """Rows `start` to `end` of a matrix of so many columns, as float32."""
    if isinstance(matrix, Tensor):
        return matrix[start:end].float()
    factors = matrix.factors[start:end].float()
    blocks = matrix.values[start:end].view(*factors.shape, BLOCK_VALUES)
    return (blocks * factors.unsqueeze(-1)).flatten(1)[:, :columns]


def load_weights(folder: Path, config: ModelConfig, placement: Placement | None = None) -> ModelWeights:
    """Map the tensors of `folder`, in whichever layout its names are; on another device than the CPU, copy them there.

    Raises NotInstalledError if a shard is missing, IntegrityError if a file contradicts `config`, ResourceError if
    the device is too small.
    """
    found = _open_all(folder)
    layout = Layout.ORIGINAL if names(Layout.ORIGINAL).embedding in found else Layout.HUGGING_FACE
    _check(folder, found, expected_tensors(config, layout))
    name = names(layout)
    try:
        return _assemble(config, name, lambda key: found[key].mapped(), placement)
    except RuntimeError as exc:
        if not is_out_of_memory(exc):
            raise
        raise ResourceError(f"The weights in {folder} do not fit on the GPU", Hint.CPU) from exc


def is_out_of_memory(failure: RuntimeError) -> bool:
    """Whether a device had no room. Apple's has no class of its own for it."""
    return isinstance(failure, torch.OutOfMemoryError) or "MPS backend out of memory" in str(failure)


class _Slice(Protocol):
    """What safetensors says of one tensor without reading it."""

    def get_shape(self) -> list[int]: ...
    def get_dtype(self) -> str: ...


class _File(Protocol):
    """What is used of safetensors' untyped `safe_open`."""

    def keys(self) -> list[str]: ...
    def get_slice(self, name: str) -> _Slice: ...
    def get_tensor(self, name: str) -> Tensor: ...


class _Found:
    """A tensor in an opened file."""

    def __init__(self, path: Path, file: _File, name: str) -> None:
        part = file.get_slice(name)
        self.path = path
        self.spec = TensorSpec(tuple(part.get_shape()), str(part.get_dtype()))
        self._file, self._name = file, name

    def mapped(self) -> Tensor:
        return self._file.get_tensor(self._name)


def _open_all(folder: Path) -> dict[str, _Found]:
    index = folder / INDEX
    if not index.exists():
        return _open_files(safetensors_files(folder))
    shard_of = read_index(index)
    found = _open_files([folder / shard for shard in sorted(set(shard_of.values()))])
    for name, shard in shard_of.items():
        if name not in found:
            raise IntegrityError(f"{folder / shard}: tensor {name!a} is missing, though {INDEX} promises it")
        if found[name].path.name != shard:
            raise IntegrityError(f"{index}: tensor {name!a} is in {found[name].path.name}, not in {shard}")
    return found


def _open_files(paths: list[Path]) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for path in paths:
        for name, tensor in _open(path):
            if name in found:
                first = found[name].path.name
                raise IntegrityError(f"{path}: tensor {name!a} is also in {first}. Get both files again")
            found[name] = tensor
    return found


def _open(path: Path) -> Iterator[tuple[str, _Found]]:
    try:
        file: _File = safe_open(path, framework="pt")
        for name in list(file.keys()):
            yield name, _Found(path, file, name)
    except SafetensorError as exc:
        raise IntegrityError(f"{path} {what_it_is(path)}: {ascii(str(exc))[1:-1]}. Get it again") from exc
    except FileNotFoundError as exc:
        raise NotInstalledError(f"{path} is missing. Run: gptoss download") from exc
    except (OSError, RuntimeError) as exc:
        raise IntegrityError(f"{path} cannot be mapped: {ascii(str(exc))[1:-1]}. Check the file") from exc


def _check(folder: Path, found: dict[str, _Found], expected: dict[str, TensorSpec]) -> None:
    for name, spec in expected.items():
        if name not in found:
            raise IntegrityError(_missing(folder, found, name))
        actual = found[name].spec
        if actual != spec:
            raise IntegrityError(
                f"{found[name].path}: tensor {name} should be {_words(spec)} by config.json, but is {_words(actual)}"
            )
    extra = [name for name in found if name not in expected]
    if extra:
        _log.warning("%s: %d tensors are not gpt-oss's and are ignored, first %s", folder, len(extra), ascii(extra[0]))


def _missing(folder: Path, found: dict[str, _Found], name: str) -> str:
    unpacked = name.removesuffix(names(Layout.HUGGING_FACE).blocks)
    if unpacked in found:
        return (
            f"{found[unpacked].path}: tensor {unpacked} is {_words(found[unpacked].spec)}, a bf16 re-save; "
            "only MXFP4 checkpoints (gate_up_proj_blocks and _scales) can be run"
        )
    return f"{folder}: tensor {name} is missing. Get the checkpoint again"


def _words(spec: TensorSpec) -> str:
    return f"{ascii(spec.dtype)[1:-1]} {list(spec.shape)}"


def _device(placement: Placement | None) -> str:
    return "cpu" if placement is None else placement.device


def _assemble(
    config: ModelConfig, name: Names, mapped: Callable[[str], Tensor], placement: Placement | None
) -> ModelWeights:
    device = _device(placement)
    on_host = placement is not None and placement.weights is not None and not placement.weights.embedding_on_gpu

    def load(key: str) -> Tensor:
        return mapped(key).to(device)

    embedding = mapped(name.embedding)
    return ModelWeights(
        embedding=embedding if on_host else embedding.to(device),
        layers=tuple(
            LayerWeights(
                _assemble_attention(config, name, load, layer), _assemble_mlp(config, name, mapped, placement, layer)
            )
            for layer in range(config.layers)
        ),
        final_norm=load(name.final_norm),
        unembedding=load(name.unembedding),
    )


def _assemble_attention(
    config: ModelConfig, name: Names, load: Callable[[str], Tensor], layer: int
) -> AttentionWeights:
    query, key, value = _split_qkv(config, [_linear(load, part, layer) for part in name.qkv])
    return AttentionWeights(
        norm=load(name.attention_norm.format(layer)),
        query=query,
        key=key,
        value=value,
        output=_linear(load, name.output, layer),
        sinks=load(name.sinks.format(layer)),
    )


def _assemble_mlp(
    config: ModelConfig, name: Names, mapped: Callable[[str], Tensor], placement: Placement | None, layer: int
) -> MlpWeights:
    device = _device(placement)

    def load(key: str) -> Tensor:
        return mapped(key).to(device)

    def experts(weight: str, bias: str) -> Experts:
        key = weight.format(layer)
        parts = key + name.blocks, key + name.scales, bias.format(layer)
        if placement is None or placement.weights is None or placement.kernels is not KernelSet.TRITON:
            return PackedExperts(*map(load, parts))
        packed = PackedExperts(*map(mapped, parts))
        return PlacedExperts(packed, torch.device(device), placement.weights.experts_of_layer(layer, config.layers))

    return MlpWeights(
        norm=load(name.mlp_norm.format(layer)),
        router=_linear(load, name.router, layer),
        gate_up=experts(name.gate_up, name.gate_up_bias),
        down=experts(name.down, name.down_bias),
    )


def _linear(load: Callable[[str], Tensor], name: str, layer: int) -> Linear:
    key = name.format(layer)
    return Linear(load(f"{key}.weight"), load(f"{key}.bias"))


def _split_qkv(config: ModelConfig, parts: list[Linear]) -> list[Linear]:
    """q, k and v apart; of a fused matrix they are views."""
    if len(parts) == 3:
        return parts
    (fused,) = parts
    weight = fused.weight
    assert isinstance(weight, Tensor), "a checkpoint holds bf16"
    query, key_value = config.query_heads * config.head_dim, config.kv_heads * config.head_dim
    bounds = pairwise((0, query, query + key_value, query + 2 * key_value))
    return [Linear(weight[start:end], fused.bias[start:end]) for start, end in bounds]
