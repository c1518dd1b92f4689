"""What a cache holds after the messages that every chat begins with, kept on disk. A file that is not right is ignored.

A file's name is the digest of all it depends on: checkpoint, numerics and ids. It holds a digest of its contents, the
hidden state of the last token, and keys and values of every layer.
"""

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from gptoss_cli.engine.kv_cache import KVCache

_log = logging.getLogger(__name__)

_FORMAT = 1
_LARGEST_FILE_BYTES = 128 * 2**20
_LARGEST_FOLDER_BYTES = 512 * 2**20
_DIGEST_BYTES = 32


class PrefixStore:
    """Files in `folder` for one checkpoint with one way of computing, both named by `identity`."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._identity = identity

    def load(self, ids: Sequence[int], cache: KVCache) -> Tensor | None:
        """Fill the empty `cache` with what it held after `ids`, and return the hidden state [1, C]; None without it."""
        path = self._path(ids)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        digest, contents = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if hashlib.sha256(contents).digest() != digest:
            _log.warning("%s is damaged and will be written again", path)
            return None
        try:
            tensors = safetensors.torch.load(contents)
            pairs = [(tensors[f"{layer}.keys"], tensors[f"{layer}.values"]) for layer in range(len(cache.layers))]
            hidden = tensors["hidden"]
        except (SafetensorError, KeyError):
            return None
        return hidden if cache.fill(pairs, len(ids)) else None

    def save(self, ids: Sequence[int], cache: KVCache, hidden: Tensor) -> None:
        """Keep what `cache` holds, which is `ids` and no more. Where that fails, the next chat reads them again."""
        tensors = {"hidden": hidden.cpu().contiguous()}
        for layer, (keys, values) in enumerate(cache.contents()):
            tensors |= {f"{layer}.keys": keys.cpu().contiguous(), f"{layer}.values": values.cpu().contiguous()}
        if sum(tensor.nbytes for tensor in tensors.values()) > _LARGEST_FILE_BYTES:
            return
        contents = safetensors.torch.save(tensors)
        try:
            self._write(self._path(ids), hashlib.sha256(contents).digest() + contents)
        except OSError as exc:
            _log.warning("the first messages cannot be kept in %s: %s", self._folder, exc)

    def _path(self, ids: Sequence[int]) -> Path:
        key = f"{_FORMAT} {self._identity} {list(ids)}"
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.prefix"

    def _write(self, path: Path, data: bytes) -> None:
        # Readable by the user alone: instructions can be told from it.
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=self._folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        files = sorted(self._folder.glob("*.prefix"), key=lambda file: file.stat().st_mtime, reverse=True)
        total = 0
        for file in files:
            total += file.stat().st_size
            if total > _LARGEST_FOLDER_BYTES:
                with contextlib.suppress(OSError):
                    file.unlink()
