"""Attention projections and unembedding with 8 bits per weight and a bf16 scale per 32 weights.

They are converted once, into a cache file that is mapped like a checkpoint. Its name is the fingerprint of the
checkpoint. It holds two tensors per matrix, NAME.values and NAME.factors; the factors are the scales.

Its last tensor, `digests`, has the CRC-32 of each block: some rows of values, or the scales of a matrix. All are
checked when the file is mapped, on every core. A file that is damaged, or not what its name says, is made again.
"""

import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptoss_cli.cache_files import mark_used
from gptoss_cli.engine.weights import Int8Matrix, LayerWeights, Linear, ModelWeights
from gptoss_cli.errors import Hint, ResourceError, first_line
from gptoss_cli.files import open_regular, replacing, safetensors_header
from gptoss_cli.placement.model_config import BLOCK_VALUES

_FORMAT = 2  # a new number makes all cache files invalid
_MAX_VALUE = 127
_CHUNK_ROWS = 4096  # rows converted at once, and in a block
_DIGESTS = "digests"
_DIGEST_BYTES = 4
_KEPT_FILES = 2  # one for each published model
_SPARE_BYTES = 1_000_000_000


def int8_weights(
    weights: ModelWeights, folder: Path, fingerprint: str, *, notice: Callable[[str], None] | None = None
) -> ModelWeights:
    """Return `weights` with 8-bit dense matrices, mapped from a file in `folder` that is created if necessary.

    `notice` is called with a line if there is such a file and it is damaged. Raises ResourceError if the file cannot be
    written.
    """
    path = folder / f"{fingerprint}-{_FORMAT}.safetensors"
    matrices = dict(_matrices(weights))
    mapped = _mapped(path, matrices)
    if mapped is None:
        if notice is not None and os.path.lexists(path):
            notice(f"{path} is damaged: the 8-bit weights are converted again")
        _convert(matrices, path)
        mapped = _mapped(path, matrices)
    if mapped is None:
        raise ResourceError(f"{path} cannot be read back after it was written", Hint.BF16_DENSE)
    mark_used([path])
    return _replaced(weights, mapped)


def int8_in_memory(weights: ModelWeights) -> ModelWeights:
    """Return `weights` with 8-bit dense matrices, without a file."""
    converted = {}
    for name, matrix in _matrices(weights):
        parts = [quantize(matrix[start : start + _CHUNK_ROWS]) for start in range(0, len(matrix), _CHUNK_ROWS)]
        values, scales = (torch.cat(each) for each in zip(*parts, strict=True))
        converted[name] = Int8Matrix(values, scales)
    return _replaced(weights, converted)


def _replaced(weights: ModelWeights, matrices: dict[str, Int8Matrix]) -> ModelWeights:
    layers = tuple(_layer(matrices, index, layer) for index, layer in enumerate(weights.layers))
    return replace(weights, layers=layers, unembedding=matrices["unembedding"])


def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Convert rows [N, C] -> values [N, G * 32] i8 and scales [N, G] bf16.

    A scale is the largest absolute value of its block divided by 127, rounded up, so that no value is clipped.
    """
    groups = -(-rows.shape[1] // BLOCK_VALUES)
    padded = torch.nn.functional.pad(rows.float(), (0, groups * BLOCK_VALUES - rows.shape[1]))
    blocks = padded.view(len(rows), groups, BLOCK_VALUES)
    exact = blocks.abs().amax(-1) / _MAX_VALUE
    scales = exact.bfloat16()
    # bfloat16() rounds to the nearest. Where that is too small, take the next larger one.
    scales = torch.where(scales.float() < exact, (scales.view(torch.int16) + 1).view(torch.bfloat16), scales)
    quotients = blocks / scales.float().clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)
    return quotients.round().clamp(-_MAX_VALUE, _MAX_VALUE).to(torch.int8).flatten(1), scales


def _matrices(weights: ModelWeights) -> Iterator[tuple[str, Tensor]]:
    """Yield the matrices to convert, with their names in the file."""
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
    """Return the shapes of the values and scales of a matrix."""
    rows, groups = len(matrix), -(-matrix.shape[1] // BLOCK_VALUES)
    return (rows, groups * BLOCK_VALUES), (rows, groups)


def _mapped(path: Path, matrices: dict[str, Tensor]) -> dict[str, Int8Matrix] | None:
    """Return the matrices in the file, or None if it is missing, incomplete, of another shape or damaged."""
    try:
        open_regular(path).close()  # `safe_open` would wait for the writer of a FIFO
        with safe_open(path, framework="pt") as file:
            mapped = {
                name: Int8Matrix(file.get_tensor(f"{name}.values"), file.get_tensor(f"{name}.factors"))
                for name in matrices
            }
            digests = file.get_tensor(_DIGESTS)
    except (SafetensorError, OSError):
        return None
    for name, matrix in matrices.items():
        found = mapped[name]
        dtypes = (found.values.dtype, found.scales.dtype)
        if (found.values.shape, found.scales.shape) != _shapes(matrix) or dtypes != (torch.int8, torch.bfloat16):
            return None
    return mapped if _bytes_of(digests) == _digests_of(mapped, path.name) else None


def _digests_of(matrices: dict[str, Int8Matrix], file_name: str) -> bytes:
    """Return the digests of all blocks, in the order of the file. Faults the pages of mapped matrices in."""
    blocks = [
        (f"{file_name} {name} {start}", block)
        for name, matrix in matrices.items()
        for start, block in _blocks(matrix.values, matrix.scales)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return b"".join(pool.map(lambda block: _digest(*block), blocks))


def _blocks(values: Tensor, scales: Tensor) -> Iterator[tuple[int, memoryview]]:
    """Yield the blocks of a matrix: rows of values, each with the number of its first row, then all scales."""
    for start in range(0, len(values), _CHUNK_ROWS):
        yield start, _bytes_of(values[start : start + _CHUNK_ROWS])
    yield len(values), _bytes_of(scales)


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _digest(label: str, block: memoryview) -> bytes:
    """Return the CRC-32 of a block, begun with its label so that it proves nothing for another block or file.

    It is a check against faults of disks and programs, not against forgers: the file belongs to the user.
    """
    return zlib.crc32(block, zlib.crc32(label.encode())).to_bytes(_DIGEST_BYTES, "little")


def _convert(matrices: dict[str, Tensor], path: Path) -> None:
    """Write the file, one matrix after the other. Raises ResourceError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        needed = sum(matrix.numel() for matrix in matrices.values()) * 17 // 16 + _SPARE_BYTES
        if shutil.disk_usage(path.parent).free < needed:
            raise ResourceError(f"8-bit weights need {needed / 1e9:.1f} GB free in {path.parent}", Hint.BF16_DENSE)
        with replacing(path) as file:
            _write(file, matrices, path.name)
        _keep_newest(path.parent)
    except OSError as exc:
        message = f"8-bit weights cannot be written to {path.parent}: {first_line(exc)}"
        raise ResourceError(message, Hint.BF16_DENSE) from exc


def _write(file: IO[bytes], matrices: dict[str, Tensor], file_name: str) -> None:
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    block_count = 0
    for name, matrix in matrices.items():
        values_shape, scales_shape = _shapes(matrix)
        tensors |= {f"{name}.values": ("I8", values_shape), f"{name}.factors": ("BF16", scales_shape)}
        block_count += -(-len(matrix) // _CHUNK_ROWS) + 1
    file.write(safetensors_header(tensors | {_DIGESTS: ("U8", (block_count * _DIGEST_BYTES,))}))
    digests = b""
    for name, matrix in matrices.items():
        all_scales = []
        for start in range(0, len(matrix), _CHUNK_ROWS):
            values, scales = quantize(matrix[start : start + _CHUNK_ROWS])
            block = _bytes_of(values)
            file.write(block)
            digests += _digest(f"{file_name} {name} {start}", block)
            all_scales.append(scales)
        block = _bytes_of(torch.cat(all_scales))
        file.write(block)
        digests += _digest(f"{file_name} {name} {len(matrix)}", block)
    file.write(digests)


def _keep_newest(folder: Path) -> None:
    found = (file for file in folder.glob("*.safetensors") if file.is_file())
    files = sorted(found, key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[_KEPT_FILES:]:
        file.unlink(missing_ok=True)
