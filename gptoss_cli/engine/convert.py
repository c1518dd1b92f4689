"""Convert a checkpoint whose experts have 16 or 32 bits per value, as transformers saves it, to the published layout.

Experts are packed one matrix at a time, all other tensors are copied. In the layout of transformers the experts of a
layer are [E, columns, rows], input first; packed they are [E, rows, G, 16]. The name tells the layout: with equal
hidden and intermediate sizes the shape does not.
"""

import hashlib
import json
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from gptoss_cli.checkpoint.folder import INDEX, fingerprint, load_json
from gptoss_cli.checkpoint.header import TensorSpec
from gptoss_cli.checkpoint.inspection import StoredTensor, data_starts, read_stored_tensors
from gptoss_cli.checkpoint.manifest import CheckpointFile, Digest
from gptoss_cli.checkpoint.partial import writing
from gptoss_cli.checkpoint.verify import Progress
from gptoss_cli.engine.mxfp4 import PackedMatrix, pack
from gptoss_cli.errors import GptossError, Hint, IntegrityError
from gptoss_cli.files import SAFETENSORS_ITEM_BYTES, public_mode, replace_file, replacing, safetensors_header
from gptoss_cli.placement.model_config import BLOCK_VALUES, load_config
from gptoss_cli.placement.tensor_specs import Layout, expected_tensors, names

_FORMAT = 1  # a new number makes the shards of an interrupted conversion invalid
_SHARD_BYTES = 2_000_000_000  # what an interruption loses at most
_COPY_BYTES = 16 << 20
_MOST_THREADS = 4
_DTYPES = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
_OTHER_FILES = ("generation_config.json",)
_CONFIG = "config.json"
_KEPT_IN_BF16 = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]


@dataclass(frozen=True, slots=True)
class _Work:
    """A tensor to convert, and the tensors that it becomes: one, or blocks and scales."""

    source: StoredTensor
    results: tuple[tuple[str, TensorSpec], ...]

    @property
    def is_packed(self) -> bool:
        return len(self.results) == 2

    @property
    def source_bytes(self) -> int:
        return math.prod(self.source.shape) * SAFETENSORS_ITEM_BYTES[self.source.dtype]

    @property
    def result_bytes(self) -> int:
        return sum(math.prod(spec.shape) * SAFETENSORS_ITEM_BYTES[spec.dtype] for _, spec in self.results)


@dataclass(frozen=True, slots=True)
class Losses:
    """The effect of a conversion on the values.

    `blocks` counts the MXFP4 blocks, `rounded_blocks` those that are not exact; `largest_error` is the largest change
    of a value, divided by the largest value of its block. `rounded_values` counts the values that were not bf16.
    """

    blocks: int = 0
    rounded_blocks: int = 0
    largest_error: float = 0.0
    rounded_values: int = 0

    @property
    def is_exact(self) -> bool:
        return self.rounded_blocks == self.rounded_values == 0

    def plus(self, other: "Losses") -> "Losses":
        """Return the effect of both."""
        return Losses(
            self.blocks + other.blocks,
            self.rounded_blocks + other.rounded_blocks,
            max(self.largest_error, other.largest_error),
            self.rounded_values + other.rounded_values,
        )


class Shard:
    """A file of the result: its name and the work for it."""

    def __init__(self, name: str, work: list[_Work]) -> None:
        self.name, self.work = name, work
        self.source_bytes = sum(each.source_bytes for each in work)
        self.header = safetensors_header(
            {name: (spec.dtype, spec.shape) for each in work for name, spec in each.results}
        )
        self.size_bytes = len(self.header) + sum(each.result_bytes for each in work)


class Conversion:
    """The conversion of the checkpoint in `source`, planned from headers and config. Nothing is written yet.

    Raises IntegrityError if the tensors are not those of the config, or NotInstalledError if a file is missing.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.config = load_json(source / _CONFIG)
        self._key = f"{_FORMAT} {fingerprint(source)}"
        self.shards = _shards(list(_all_work(source)))
        self.source_bytes = sum(shard.source_bytes for shard in self.shards)
        self.size_bytes = sum(shard.size_bytes for shard in self.shards)

    def finished(self, shard: Shard, folder: Path, records: Path) -> tuple[CheckpointFile, Losses] | None:
        """Return the entry of a shard that an earlier run finished, and its losses; None if there is none."""
        try:
            values = load_json(records / f"{shard.name}.json")
            if values["key"] != self._key or (folder / shard.name).stat().st_size != shard.size_bytes:
                return None
            losses: dict[str, Any] = values["losses"]  # type: ignore[assignment]
            digest = Digest("sha256", str(values["sha256"]))
            return CheckpointFile(shard.name, shard.size_bytes, digest), Losses(**losses)
        except (GptossError, OSError, KeyError, TypeError):
            return None

    def write_shard(
        self, shard: Shard, folder: Path, records: Path, progress: Progress, stop: threading.Event, *, exact: bool
    ) -> tuple[CheckpointFile, Losses]:
        """Write a shard into `folder`, and a record that it is finished into `records`.

        With `exact` a value that would be rounded is an IntegrityError. Raises KeyboardInterrupt once `stop` is set,
        ResourceError if it cannot be written.
        """
        progress.begin(shard.name, 0, shard.source_bytes)
        with writing(folder / shard.name):
            with replacing(folder / shard.name, mode=public_mode(), sync=True) as file:
                writer = _Writer(file, lambda count: progress.advance(shard.name, count), stop)
                writer.write(shard.header)
                losses = Losses()
                for work in shard.work:
                    lost = _convert(work, writer)
                    if exact and not lost.is_exact:
                        raise _inexact(work, lost)
                    losses = losses.plus(lost)
            digest = writer.digest.hexdigest()
            record = {"key": self._key, "sha256": digest, "losses": asdict(losses)}
            replace_file(records / f"{shard.name}.json", json.dumps(record).encode(), mode=public_mode(), sync=True)
        progress.end(shard.name)
        return CheckpointFile(shard.name, shard.size_bytes, Digest("sha256", digest)), losses

    def write_small_files(self, folder: Path) -> list[CheckpointFile]:
        """Write config, index and the generation config into `folder`. Raises ResourceError."""
        shard_of = {name: shard.name for shard in self.shards for work in shard.work for name, _ in work.results}
        index = {"metadata": {"total_size": self.size_bytes}, "weight_map": shard_of}
        contents = {_CONFIG: _packed_config(self.config), INDEX: index}
        for name in _OTHER_FILES:
            if (self.source / name).is_file():
                contents[name] = load_json(self.source / name)
        files = []
        for name, values in contents.items():
            data = f"{json.dumps(values, indent=2)}\n".encode()
            with writing(folder / name):
                replace_file(folder / name, data, mode=public_mode(), sync=True)
            files.append(CheckpointFile(name, len(data), Digest("sha256", hashlib.sha256(data).hexdigest())))
        return files


def _all_work(source: Path) -> Iterator[_Work]:
    """Yield the work for every tensor that the config requires, in the order of the layers."""
    config = load_config(source / _CONFIG)
    stored = {tensor.name: tensor for tensor in read_stored_tensors(source)}
    specs, suffixes = expected_tensors(config, Layout.HUGGING_FACE), names(Layout.HUGGING_FACE)
    for name, spec in specs.items():
        if name.endswith(suffixes.scales):
            continue
        if not name.endswith(suffixes.blocks):
            yield _Work(_checked(source, stored, name, spec.shape), ((name, spec),))
            continue
        unpacked = name.removesuffix(suffixes.blocks)
        experts, rows, groups, block_bytes = spec.shape
        shape = (experts, groups * 2 * block_bytes, rows)
        scales = f"{unpacked}{suffixes.scales}"
        yield _Work(_checked(source, stored, unpacked, shape), ((name, spec), (scales, specs[scales])))


def _checked(source: Path, stored: dict[str, StoredTensor], name: str, shape: tuple[int, ...]) -> StoredTensor:
    tensor = stored.get(name)
    if tensor is None:
        raise IntegrityError(f"{source}: tensor {name} is missing")
    if tensor.shape != shape or tensor.dtype not in _DTYPES:
        found = f"{tensor.dtype} {list(tensor.shape)}"
        raise IntegrityError(f"{tensor.path}: tensor {name} should be BF16 {list(shape)}, but is {found}")
    return tensor


def _shards(work: list[_Work]) -> list[Shard]:
    groups: list[list[_Work]] = [[]]
    size = 0
    for each in work:
        if groups[-1] and size + each.result_bytes > _SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(each)
        size += each.result_bytes
    count = len(groups)
    return [Shard(f"model-{i:05d}-of-{count:05d}.safetensors", group) for i, group in enumerate(groups, 1)]


def _packed_config(config: dict[str, object]) -> dict[str, object]:
    """Return the config of the packed checkpoint."""
    dtypes = {key: "bfloat16" for key in ("dtype", "torch_dtype") if key in config}
    quantization = {"quant_method": "mxfp4", "modules_to_not_convert": _KEPT_IN_BF16}
    return config | dtypes | {"quantization_config": quantization}


def _inexact(work: _Work, lost: Losses) -> GptossError:
    many = f"{100 * lost.rounded_blocks / lost.blocks:.2g} % of its blocks" if lost.blocks else "some values"
    kind = "MXFP4" if lost.blocks else "bf16"
    message = f"{work.source.path}: tensor {work.source.name} would be rounded: {many} are not exact in {kind}"
    return IntegrityError(message, Hint.ALLOW_ROUNDING)


class _Writer:
    """A file with the digest of what was written. `advance` is called with the bytes that were read for it."""

    def __init__(self, file: IO[bytes], advance: Callable[[int], None], stop: threading.Event) -> None:
        self._file, self.advance, self._stop = file, advance, stop
        self.digest = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes. Raises KeyboardInterrupt once the user has asked to stop."""
        if self._stop.is_set():
            raise KeyboardInterrupt
        self._file.write(data)
        self.digest.update(data)


def _convert(work: _Work, writer: _Writer) -> Losses:
    start = data_starts(work.source.path)[work.source.name]
    return _pack_experts(work, start, writer) if work.is_packed else _copy(work, start, writer)


def _copy(work: _Work, start: int, writer: _Writer) -> Losses:
    count = _COPY_BYTES // SAFETENSORS_ITEM_BYTES[work.source.dtype]
    rounded_values = 0
    with _Values(work.source, start) as values:
        for first in range(0, math.prod(work.source.shape), count):
            bits, changed = values.read(min(count, math.prod(work.source.shape) - first))
            rounded_values += changed
            writer.write(bits.data)
            writer.advance(len(bits) * SAFETENSORS_ITEM_BYTES[work.source.dtype])
    return Losses(rounded_values=rounded_values)


def _pack_experts(work: _Work, start: int, writer: _Writer) -> Losses:
    """Pack the experts of one tensor in a few threads, and write all blocks and then all scales."""
    experts = work.source.shape[0]
    size = work.source_bytes // experts
    scales, losses = [], Losses()
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[tuple[PackedMatrix, int]]] = deque()
        for expert in range(experts + threads):
            if expert < experts:
                waiting.append(pool.submit(_pack_expert, work.source, start + expert * size))
            if expert >= threads:
                packed, rounded_values = waiting.popleft().result()
                writer.write(packed.blocks.data)
                writer.advance(size)
                scales.append(packed.scales)
                lost = Losses(packed.scales.size, packed.rounded_blocks, packed.largest_error, rounded_values)
                losses = losses.plus(lost)
    for each in scales:
        writer.write(each.data)
    return losses


def _pack_expert(tensor: StoredTensor, start: int) -> tuple[PackedMatrix, int]:
    """Return the packed matrix of the expert that begins at a byte of its file, and the number of rounded values."""
    _, columns, rows = tensor.shape
    rounded_values = 0

    def slabs() -> Iterator[NDArray[np.uint16]]:
        nonlocal rounded_values
        for _ in range(columns // BLOCK_VALUES):
            bits, changed = values.read(BLOCK_VALUES * rows)
            rounded_values += changed
            yield bits.reshape(BLOCK_VALUES, rows)

    with _Values(tensor, start) as values:
        try:
            return pack(slabs(), columns // BLOCK_VALUES, rows), rounded_values
        except ValueError as exc:
            raise IntegrityError(f"{tensor.path}: tensor {tensor.name} has values that are not finite") from exc


class _Values:
    """The values of a tensor from a byte of its file on, read and not mapped: a file that shrinks is an error."""

    def __init__(self, tensor: StoredTensor, start: int) -> None:
        self._path, self._dtype, self._start = tensor.path, _DTYPES[tensor.dtype], start
        self._buffer: NDArray[Any] = np.empty(0, self._dtype)

    def __enter__(self) -> Self:
        try:
            self._file = self._path.open("rb", buffering=0)
        except OSError as exc:
            raise self._unreadable(exc) from exc
        self._file.seek(self._start)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def read(self, count: int) -> tuple[NDArray[np.uint16], int]:
        """Return the bits of the next values in bfloat16, valid until the next call, and how many were rounded.

        Raises IntegrityError.
        """
        if len(self._buffer) < count:
            self._buffer = np.empty(count, self._dtype)
        values = self._buffer[:count]
        rest = values.data.cast("B")
        try:
            while rest:
                size = self._file.readinto(rest)
                if not size:
                    raise IntegrityError(f"{self._path} is shorter than before")
                rest = rest[size:]
        except OSError as exc:
            raise self._unreadable(exc) from exc
        return _bfloat16(values)

    def _unreadable(self, exc: OSError) -> GptossError:
        return IntegrityError(f"{self._path} cannot be read: {exc.strerror}")


def _bfloat16(values: NDArray[Any]) -> tuple[NDArray[np.uint16], int]:
    """Return the bits of values rounded to bfloat16, ties to even, and the number of values that were changed."""
    if values.dtype == np.uint16:
        return values, 0
    bits = values.astype(np.float32).view(np.uint32)
    changed = int(np.count_nonzero(bits & np.uint32(0xFFFF)))
    if changed:
        half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        bits = bits + half * np.isfinite(values)
    return (bits >> np.uint32(16)).astype(np.uint16), changed
