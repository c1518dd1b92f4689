"""Unpack the built-in demo model into an ordinary checkpoint folder.

`data/demo.safetensors` holds every tensor of the checkpoint but leaves out most of the two vocabulary tables. The last
`copy_size` dimensions of a row are a code derived from the token id, so they are not stored. A token that training did
not use has nothing else: its row is a common base row plus its code. By these codes the model copies names that it has
never seen.
"""

import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import deserialize

from gptoss_cli.errors import ResourceError
from gptoss_cli.files import open_regular, read_regular, safetensors_header
from gptoss_cli.settings import cache_folder

WEIGHTS = "model.safetensors"
FILES = ("config.json", "generation_config.json", WEIGHTS)

_FORMAT = b"2"  # of the unpacked folder
_RECORD = "digests"  # the digests of the files
_MAX_RECORD_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 23
_TABLES = ("model.embed_tokens.weight", "lm_head.weight")
_CHUNK_TOKENS = 1 << 14  # bounds the memory for rows in float32
_verified: set[tuple[tuple[int, int, int], ...]] = set()  # states of the files, by this process


def demo_checkpoint(*, notice: Callable[[str], None] | None = None) -> Path:
    """Return the folder of the demo checkpoint, in Hugging Face layout.

    The first call unpacks it into the cache folder, in about a second; later ones check the digests of its files.
    `notice` is called with a line if they are damaged, so that it is unpacked again. Raises ResourceError if it cannot
    be written.
    """
    packed = resources.files("gptoss_cli.demo").joinpath("data/demo.safetensors").read_bytes()
    folder = cache_folder() / "demo" / hashlib.sha256(_FORMAT + packed).hexdigest()[:16]
    if not _is_intact(folder):
        try:
            if notice is not None and os.path.lexists(folder):
                notice(f"The files in {folder} are damaged: the demo model is unpacked again")
            _unpack_atomically(packed, folder)
        except OSError as exc:
            message = f"The demo model cannot be unpacked into {folder} ({exc.strerror}). Set GPTOSS_HOME elsewhere"
            raise ResourceError(message) from exc
    return folder


def _is_intact(folder: Path) -> bool:
    """Return True if the files have the recorded digests, or have not changed since this process found that."""
    try:
        states = tuple(_state(folder / name) for name in FILES)
        if states in _verified:
            return True
        if read_regular(folder / _RECORD, _MAX_RECORD_BYTES) != _digests(folder):
            return False
    except OSError:
        return False
    _verified.add(states)
    return True


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _digests(folder: Path) -> bytes:
    """Return a line per file with its name and the CRC-32 of each of its blocks, computed on every core.

    It is a check against faults of disks and programs: a stronger digest would take longer than the rest of the start.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        lines = []
        for name in FILES:
            starts = range(0, (folder / name).stat().st_size, _BLOCK_BYTES)
            crcs = pool.map(lambda start, path=folder / name: _block_digest(path, start), starts)
            lines.append(f"{name} {' '.join(f'{crc:08x}' for crc in crcs)}\n")
    return "".join(lines).encode()


def _block_digest(path: Path, start: int) -> int:
    with open_regular(path) as file:
        file.seek(start)
        return zlib.crc32(file.read(_BLOCK_BYTES))


def _unpack_atomically(packed: bytes, folder: Path) -> None:
    """Unpack next to `folder` and rename, so that two processes can do it at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        unpacked = Path(temporary) / "demo"
        unpacked.mkdir()
        _unpack(packed, unpacked)
        (unpacked / _RECORD).write_bytes(_digests(unpacked))
        if os.path.lexists(folder) and not _is_intact(folder):
            _remove(folder)
        try:
            os.rename(unpacked, folder)
        except OSError:
            # Another process may have been faster.
            if not _is_intact(folder):
                raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _unpack(packed: bytes, folder: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors into `folder`."""
    metadata = json.loads(packed[8 : 8 + int.from_bytes(packed[:8], "little")])["__metadata__"]
    tensors: dict[str, Any] = dict(deserialize(packed))  # type: ignore[no-untyped-call]
    ids = np.frombuffer(tensors.pop("trained_ids")["data"], np.int32).astype(np.int64)
    vocabulary_size = int(json.loads(metadata["config"])["vocab_size"])
    # The special tokens are the last of the vocabulary, and this is the first of them.
    first_special_id = int(json.loads(metadata["generation_config"])["bos_token_id"])
    for name in _TABLES:
        code = _TokenCode(int(metadata["copy_size"]), float(metadata[f"{name}.scale"]), first_special_id)
        base = _from_bfloat16(np.frombuffer(tensors.pop(f"{name}.base")["data"], np.uint16))
        trained = np.frombuffer(tensors.pop(name)["data"], np.uint16).reshape(-1, len(base) - code.size)
        table = _untrained_table(vocabulary_size, base, code)
        # The unembedding has rows only for tokens that the model says. Their ids come first.
        table[ids[: len(trained)]] = np.concatenate((trained, code.of_trained(ids[: len(trained)])), axis=1)
        tensors[name] = {"dtype": "BF16", "shape": list(table.shape), "data": table.tobytes()}
    # `deserialize` returns the tensors in a different order each time.
    _write_safetensors(dict(sorted(tensors.items())), folder / WEIGHTS)
    (folder / "config.json").write_text(metadata["config"])
    (folder / "generation_config.json").write_text(metadata["generation_config"])


def _untrained_table(vocabulary_size: int, base: NDArray[np.float32], code: "_TokenCode") -> NDArray[np.uint16]:
    """Return rows [V, C], bfloat16 bits, that are `base` [C] plus the code of each token."""
    table = np.empty((vocabulary_size, len(base)), np.uint16)
    for start in range(0, vocabulary_size, _CHUNK_TOKENS):
        ids = np.arange(start, min(start + _CHUNK_TOKENS, vocabulary_size))
        rows = np.tile(base, (len(ids), 1))
        rows[:, -code.size :] += np.float32(code.scale) * code.signs(ids)
        table[ids] = _to_bfloat16(rows)
    return table


@dataclass(frozen=True, slots=True)
class _TokenCode:
    """The last `size` dimensions of a vocabulary row: +scale or -scale in each, derived from the token id."""

    size: int
    scale: float
    first_special_id: int

    def of_trained(self, ids: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Return codes [N, size], bfloat16 bits. Special tokens are never copied, so theirs are zero."""
        copied = (ids < self.first_special_id)[:, None].astype(np.float32)
        return _to_bfloat16(np.float32(self.scale) * (self.signs(ids) * copied))

    def signs(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return +1 or -1 [N, size]: the bits of splitmix64 (doi:10.1145/2660193.2660195) at a counter per token."""
        words = -(-self.size // 64)
        counter = np.add.outer(ids.astype(np.uint64) * np.uint64(words), np.arange(words, dtype=np.uint64))
        with np.errstate(over="ignore"):
            x = (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x ^= x >> np.uint64(31)
        bits = (x[:, :, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
        return np.where(bits.reshape(len(ids), -1)[:, : self.size], np.float32(1), np.float32(-1))


def _to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the bits of `values` rounded to bfloat16, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def _from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _write_safetensors(tensors: dict[str, Any], path: Path) -> None:
    """Write a safetensors file. The library writes bfloat16 only through torch, which this module does without."""
    with path.open("wb") as file:
        file.write(safetensors_header({name: (part["dtype"], tuple(part["shape"])) for name, part in tensors.items()}))
        for part in tensors.values():
            file.write(part["data"])
