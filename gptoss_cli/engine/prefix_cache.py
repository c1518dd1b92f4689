"""The KV cache of the messages that every chat begins with, kept on disk so that the next chat need not compute it.

A file's name is the digest of everything that its contents depend on: checkpoint, numerics and ids. The file holds the
SHA-256 of the rest, then safetensors: the hidden state of the last token, and keys and values of every layer. A file
that is damaged or does not fit is ignored.
"""

import contextlib
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from gptoss_cli.engine.kv_cache import KVCache
from gptoss_cli.files import replace_file

_log = logging.getLogger(__name__)

_FORMAT = 1
_MAX_FILE_BYTES = 128 * 2**20
_MAX_FOLDER_BYTES = 512 * 2**20
_DIGEST_BYTES = hashlib.sha256().digest_size


class PrefixCache:
    """The files in `folder` for one checkpoint and one way of computing, both named by `identity`."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._identity = identity

    def load(self, ids: Sequence[int], cache: KVCache) -> Tensor | None:
        """Fill the empty `cache` with what was stored for `ids` -> the hidden state [1, C] after them, or None."""
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
        """Store `cache`, which holds exactly `ids`. If that fails, the next chat computes it again."""
        tensors = {"hidden": hidden.cpu().contiguous()}
        for layer, (keys, values) in enumerate(cache.contents()):
            tensors |= {f"{layer}.keys": keys.cpu().contiguous(), f"{layer}.values": values.cpu().contiguous()}
        if sum(tensor.nbytes for tensor in tensors.values()) > _MAX_FILE_BYTES:
            return
        contents = safetensors.torch.save(tensors)
        try:
            # Private to the user: the instructions could be reconstructed from keys and values.
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(self._path(ids), hashlib.sha256(contents).digest() + contents, mode=0o600)
            self._remove_oldest()
        except OSError as exc:
            _log.warning("cannot store the first messages in %s: %s", self._folder, exc)

    def _path(self, ids: Sequence[int]) -> Path:
        key = f"{_FORMAT} {self._identity} {list(ids)}"
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.prefix"

    def _remove_oldest(self) -> None:
        files = sorted(self._folder.glob("*.prefix"), key=lambda file: file.stat().st_mtime, reverse=True)
        total = 0
        for file in files:
            total += file.stat().st_size
            if total > _MAX_FOLDER_BYTES:
                with contextlib.suppress(OSError):
                    file.unlink()
