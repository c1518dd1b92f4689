"""Attention projections and unembedding with 8 bits a weight and a bf16 factor for each 32, converted once and kept.

The file is mapped like a checkpoint. Its name is the fingerprint of the checkpoint it was made from.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptoss_cli.engine.weights import Int8Matrix, LayerWeights, Linear, ModelWeights
from gptoss_cli.errors import ResourceError
from gptoss_cli.placement.model_config import BLOCK_VALUES

_FORMAT = 1
_LARGEST = 127
_ROWS = 4096  # converted at once
_KEPT_FILES = 2  # as many as there are published models
_SPARE_BYTES = 1_000_000_000
_KINDS = (("values", "I8", 1), ("factors", "BF16", 2))  # with bytes an element


def int8_weights(weights: ModelWeights, folder: Path, fingerprint: str) -> ModelWeights:
    """`weights` with the dense matrices mapped from a file in `folder`, which is made first where it is missing.

    Raises ResourceError if it cannot be written.
    """
    path = folder / f"{fingerprint}-{_FORMAT}.safetensors"
    matrices = dict(_matrices(weights))
    mapped = _mapped(path, matrices)
    if mapped is None:
        _convert(matrices, path)
        mapped = _mapped(path, matrices)
    if mapped is None:
        raise ResourceError(f"{path} cannot be read right after it was written. Use --dense bf16")
    layers = tuple(_layer(mapped, index, layer) for index, layer in enumerate(weights.layers))
    return replace(weights, layers=layers, unembedding=mapped["unembedding"])


def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [N, C] -> values [N, G * 32] i8 and factors [N, G] bf16. A block's largest value is within its 127 steps."""
    groups = -(-rows.shape[1] // BLOCK_VALUES)
    padded = torch.nn.functional.pad(rows.float(), (0, groups * BLOCK_VALUES - rows.shape[1]))
    blocks = padded.view(len(rows), groups, BLOCK_VALUES)
    exact = blocks.abs().amax(-1) / _LARGEST
    factors = exact.bfloat16()
    # bf16 rounds to the nearest: where that is too small, the next one.
    factors = torch.where(factors.float() < exact, (factors.view(torch.int16) + 1).view(torch.bfloat16), factors)
    steps = blocks / factors.float().clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)
    return steps.round().clamp(-_LARGEST, _LARGEST).to(torch.int8).flatten(1), factors


def _matrices(weights: ModelWeights) -> Iterator[tuple[str, Tensor]]:
    """What is converted, by its name in the file."""
    for index, layer in enumerate(weights.layers):
        attention = layer.attention
        for part in ("query", "key", "value", "output"):
            matrix = getattr(attention, part).weight
            assert isinstance(matrix, Tensor)
            yield f"{index}.{part}", matrix
    assert isinstance(weights.unembedding, Tensor)
    yield "unembedding", weights.unembedding


def _layer(mapped: dict[str, Int8Matrix], index: int, layer: LayerWeights) -> LayerWeights:
    old = layer.attention
    attention = replace(
        old,
        query=Linear(mapped[f"{index}.query"], old.query.bias),
        key=Linear(mapped[f"{index}.key"], old.key.bias),
        value=Linear(mapped[f"{index}.value"], old.value.bias),
        output=Linear(mapped[f"{index}.output"], old.output.bias),
    )
    return replace(layer, attention=attention)


def _shapes(matrix: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    rows, groups = len(matrix), -(-matrix.shape[1] // BLOCK_VALUES)
    return (rows, groups * BLOCK_VALUES), (rows, groups)


def _mapped(path: Path, matrices: dict[str, Tensor]) -> dict[str, Int8Matrix] | None:
    """The file's matrices, or None if it is missing, cut short or of another shape."""
    try:
        with safe_open(path, framework="pt") as file:
            mapped = {
                name: Int8Matrix(file.get_tensor(f"{name}.values"), file.get_tensor(f"{name}.factors"))
                for name in matrices
            }
    except (SafetensorError, OSError):
        return None
    for name, matrix in matrices.items():
        found = mapped[name]
        kinds = (found.values.dtype, found.factors.dtype)
        if (found.values.shape, found.factors.shape) != _shapes(matrix) or kinds != (torch.int8, torch.bfloat16):
            return None
    return mapped


def _convert(matrices: dict[str, Tensor], path: Path) -> None:
    """Write the file, matrix by matrix; it gets its name when it is whole. Raises ResourceError."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        needed = sum(matrix.numel() for matrix in matrices.values()) * 17 // 16 + _SPARE_BYTES
        if shutil.disk_usage(path.parent).free < needed:
            raise ResourceError(f"{path.parent} has no {needed / 1e9:.1f} GB for 8-bit weights. Use --dense bf16")
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            temporary = Path(file.name)
            _write(file, matrices)
        os.replace(temporary, path)
        _keep_newest(path.parent)
    except OSError as exc:
        raise ResourceError(f"8-bit weights cannot be kept in {path.parent}: {exc}. Use --dense bf16") from exc
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _write(file: IO[bytes], matrices: dict[str, Tensor]) -> None:
    """The safetensors format: 8 bytes of header length, a JSON header, the data."""
    header, offset = {}, 0
    for name, matrix in matrices.items():
        for (kind, dtype, size), shape in zip(_KINDS, _shapes(matrix), strict=True):
            end = offset + shape[0] * shape[1] * size
            header[f"{name}.{kind}"] = {"dtype": dtype, "shape": shape, "data_offsets": (offset, end)}
            offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for matrix in matrices.values():
        factors = []
        for start in range(0, len(matrix), _ROWS):
            values, some = quantize(matrix[start : start + _ROWS])
            file.write(values.numpy().tobytes())
            factors.append(some)
        file.write(torch.cat(factors).view(torch.uint8).numpy().tobytes())


def _keep_newest(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[_KEPT_FILES:]:
        file.unlink(missing_ok=True)
