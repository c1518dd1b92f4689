"""KV caches on disk: of the messages that every chat begins with, and of whole conversations.

    position     0        1024       2048    2300
                 | chunk 0 | chunk 1  | point |      full layers
                                      [ring]         sliding layers, in the point with the last hidden state

A chunk holds keys and values of the full layers; a point everything else at one length: those of the positions after
the last whole chunk, the rings, and the hidden state of the last token. The name of a file is the digest of everything
that its contents depend on: format, checkpoint, numerics, shapes, the name of the chunk before, and ids. So forks of a
conversation share files, and a longer conversation adds files only.

Keys of the same ids differ by rounding if they were computed in other portions. So a point has the digests of the
chunks that it was saved with: what is loaded is bit for bit what was saved. The last 32 bytes of a file are the SHA-256
of its name and the rest. A file that is damaged, or not what its name says, is deleted and computed again.

Letters in shapes: N positions, K kv heads, D head dim, C hidden, W window.
"""

import hashlib
import logging
import os
import shutil
import sys
from array import array
from collections import abc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from gptoss_cli.cache_files import (
    KV_LIMIT_BYTES,
    PointKind,
    make_private_folder,
    mark_used,
    read_file,
    remove_oldest,
)
from gptoss_cli.engine.device_errors import device_errors
from gptoss_cli.engine.kv_cache import KVCache
from gptoss_cli.engine.sequence import Mark, Sequence
from gptoss_cli.files import replacing

_log = logging.getLogger(__name__)

CHUNK_TOKENS: Final = 1024
_FORMAT = 2
_DIGEST_BYTES = hashlib.sha256().digest_size
_MAX_HIDDEN_BYTES = 1 << 20
_SPARE_BYTES = 500_000_000  # of the disk, for other programs
_SUFFIXES = tuple(f".{kind}" for kind in PointKind)
# Reading a token's keys takes about a twentieth of the time of computing them, or less.
_READ_COST = 0.05


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """A length that may be stored: the path of its point, and those of the chunks before it."""

    length: int
    path: Path
    chunks: tuple[Path, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The chunks, then the point: the order in which they are worth keeping."""
        return (*self.chunks, self.path)


class PrefixCache:
    """The files in `folder` for one checkpoint and one way of computing, both named by `identity`."""

    def __init__(
        self,
        folder: Path,
        identity: str,
        *,
        limit_bytes: int = KV_LIMIT_BYTES,
        spare_bytes: int = _SPARE_BYTES,
        chunk_tokens: int = CHUNK_TOKENS,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        """`notice` is called with a line about a damaged file."""
        self.folder = folder
        self.chunk_tokens = chunk_tokens
        self.limit_bytes = limit_bytes
        self._spare_bytes = spare_bytes
        self._identity = identity
        self._notice = notice or _log.warning

    def point(self, ids: abc.Sequence[int], cache: KVCache, *, kind: PointKind) -> StoredPoint:
        """Return where the state of `cache` after `ids` belongs."""
        chunks = self._chunk_names(ids, cache)
        return self._point(ids, chunks, cache, kind)

    def find(self, ids: abc.Sequence[int], cache: KVCache) -> list[StoredPoint]:
        """Return the stored points at prefixes of `ids`, the longest one first."""
        try:
            names = {path.name for path in self.folder.iterdir()}
        except OSError:
            return []
        lengths = set()
        for name in names:
            length, _, rest = name.partition("-")
            if rest.endswith(_SUFFIXES) and length.isdecimal() and len(length) < 10 and 0 < int(length) <= len(ids):
                lengths.add(int(length))
        if not lengths:
            return []
        chunks = self._chunk_names(ids[: max(lengths)], cache)
        points = [
            self._point(ids[:length], chunks, cache, kind)
            for length in sorted(lengths, reverse=True)
            for kind in PointKind
        ]
        return [point for point in points if point.path.name in names]

    def load(self, point: StoredPoint, cache: KVCache) -> tuple[Tensor, list[bytes]] | None:
        """Fill the empty `cache` -> the hidden state [1, C] and the digests of the chunks, or None if a file is unfit.

        Raises ResourceError if there is no memory for it.
        """
        layout = _Layout(cache)
        known = _DIGEST_BYTES * len(point.chunks)
        tail = point.length - len(point.chunks) * self.chunk_tokens
        base = known + layout.full_bytes(tail) + layout.ring_bytes
        content = self._read_verified(point.path, base + 4, base + _MAX_HIDDEN_BYTES)
        if content is None or (len(content) - base) % 4 != 0:
            return None
        digests = [bytes(content[start : start + _DIGEST_BYTES]) for start in range(0, known, _DIGEST_BYTES)]
        layout.allocate(point.length)
        for index, (path, digest) in enumerate(zip(point.chunks, digests, strict=True)):
            size = layout.full_bytes(self.chunk_tokens)
            chunk = self._read_verified(path, size, size, digest)
            if chunk is None:
                return None
            layout.fill_full(_Reader(chunk), index * self.chunk_tokens, self.chunk_tokens)
        reader = _Reader(content, known)
        hidden = reader.take(torch.float32, (1, (len(content) - base) // 4))
        layout.fill_full(reader, point.length - tail, tail)
        cache.fill(point.length, [layout.take_ring(reader) for _ in cache.sliding_layers])
        mark_used(point.paths)
        return hidden, digests

    def has_room(self, point: StoredPoint, cache: KVCache) -> bool:
        """Return whether all files of `point` fit within the limit and on the disk, after creating the folder.

        Raises OSError.
        """
        layout = _Layout(cache)
        size_bytes = layout.full_bytes(point.length) + layout.ring_bytes
        if size_bytes > self.limit_bytes:
            return False
        make_private_folder(self.folder)
        return shutil.disk_usage(self.folder).free >= size_bytes + self._spare_bytes

    def write(self, path: Path, parts: abc.Sequence[Tensor | bytes]) -> bytes:
        """Write a file unless it is there -> its digest. Raises OSError."""
        views = [_bytes_of(part) for part in parts]
        sha = hashlib.sha256(path.name.encode())
        for view in views:
            sha.update(view)
        digest = sha.digest()
        if _stored_digest(path) == digest:
            return digest
        # Private to the user: the text could be reconstructed from keys and values.
        with replacing(path, mode=0o600) as file:
            for view in views:
                file.write(view)
            file.write(digest)
        return digest

    def keep_within_limit(self) -> None:
        """Delete the files that were not used for the longest time until the folder is within its limit."""
        remove_oldest(self.folder, self.limit_bytes)

    def _read_verified(
        self, path: Path, min_bytes: int, max_bytes: int, digest: bytes | None = None
    ) -> bytearray | None:
        """Return the content of a file without its digest; None, and no file any more, if it is damaged or missing.

        With `digest` another digest is wrong too, though the file may be right for other points.
        """
        content = read_file(path, min_bytes=min_bytes + _DIGEST_BYTES, max_bytes=max_bytes + _DIGEST_BYTES)
        if content is not None:
            found = bytes(content[-_DIGEST_BYTES:])
            with memoryview(content) as view:
                sha = hashlib.sha256(path.name.encode())
                sha.update(view[:-_DIGEST_BYTES])
            if sha.digest() == found:
                del content[-_DIGEST_BYTES:]
                return content if digest in (None, found) else None
        if os.path.lexists(path):
            self._notice(f"{path} is damaged: its tokens are computed again")
            with suppress(OSError):
                path.unlink()
        return None

    def _chunk_names(self, ids: abc.Sequence[int], cache: KVCache) -> list[str]:
        names, before = [], self._root(cache)
        for start in range(0, len(ids) - self.chunk_tokens + 1, self.chunk_tokens):
            before = _name(before, "chunk", ids[start : start + self.chunk_tokens])
            names.append(before)
        return names

    def _point(self, ids: abc.Sequence[int], chunks: list[str], cache: KVCache, kind: PointKind) -> StoredPoint:
        count = len(ids) // self.chunk_tokens
        before = chunks[count - 1] if count else self._root(cache)
        name = _name(before, "point", ids[count * self.chunk_tokens :])
        paths = tuple(self.folder / f"{chunk}.chunk" for chunk in chunks[:count])
        return StoredPoint(len(ids), self.folder / f"{len(ids)}-{name}.{kind}", paths)

    def _root(self, cache: KVCache) -> str:
        key = f"{_FORMAT} {sys.byteorder} {self.chunk_tokens} {_Layout(cache).key} {self._identity}"
        return hashlib.sha256(key.encode()).hexdigest()


class StoredSequence:
    """The files of one sequence: loads the longest stored prefix into it, and saves it at its last mark.

    `save` may run in another thread than the rest: it copies only what the mark still protects.
    """

    def __init__(self, files: PrefixCache, sequence: Sequence) -> None:
        self._files = files
        self._sequence = sequence
        self._digests: list[bytes] = []  # of the first chunks of the sequence, as far as they are known
        self._saved: StoredPoint | None = None  # what `save` wrote last

    def load(self, ids: list[int]) -> None:
        """Replace the sequence by the longest stored prefix of `ids`, if reading that is faster than computing it."""
        sequence = self._sequence
        self._digests = self._digests[: len(sequence.cached) // self._files.chunk_tokens]
        for point in self._files.find(ids, sequence.cache):
            if point.length - len(sequence.cached) <= _READ_COST * point.length:
                return
            sequence.clear()
            self._digests = []
            with device_errors():
                loaded = self._files.load(point, sequence.cache)
            if loaded is not None:
                hidden, self._digests = loaded
                sequence.restore(ids[: point.length], hidden.to(sequence.cache.position.device))
                return

    def names(self) -> list[str]:
        """Return the names of the files that hold the sequence up to its last mark, written or not."""
        point = self._marked(PointKind.CONVERSATION)
        return [] if point is None else [path.name for path in point[1].paths]

    def save(self, *, kind: PointKind = PointKind.CONVERSATION) -> list[str]:
        """Write the files of `names` that are missing, and return their names; [] if they are not stored.

        The point that was saved before goes: it only matters to a conversation that is cut there. Without room nothing
        is stored, and an error is logged: the next chat computes it again.
        """
        marked = self._marked(kind)
        if marked is None:
            return []
        mark, point = marked
        try:
            if not self._files.has_room(point, self._sequence.cache) or not self._write(mark, point):
                return []
        except OSError as exc:
            _log.warning("cannot store the KV cache in %s: %s", self._files.folder, exc)
            return []
        if kind is PointKind.CONVERSATION:
            self._remove_superseded(point)
        mark_used(point.paths)
        self._files.keep_within_limit()
        return [path.name for path in point.paths]

    def _marked(self, kind: PointKind) -> tuple[Mark, StoredPoint] | None:
        marked = self._sequence.last_mark()
        if marked is None:
            return None
        mark, ids = marked
        return mark, self._files.point(ids, self._sequence.cache, kind=kind)

    def _remove_superseded(self, point: StoredPoint) -> None:
        """Delete the point that was saved before `point`, if `point` continues it."""
        before, self._saved = self._saved, point
        if before is None or before.length >= point.length:
            return
        ids = self._sequence.cached[: before.length]
        if self._files.point(ids, self._sequence.cache, kind=PointKind.CONVERSATION).path == before.path:
            with suppress(OSError):
                before.path.unlink()

    def _write(self, mark: Mark, point: StoredPoint) -> bool:
        """Write missing files; stop and return False if the sequence has left `mark` meanwhile."""
        digests, tokens = self._digests[: len(point.chunks)], self._files.chunk_tokens
        for index, path in enumerate(point.chunks):
            if index < len(digests) and _stored_digest(path) == digests[index]:
                continue
            parts = self._sequence.snapshot(mark, index * tokens, (index + 1) * tokens)
            if parts is None:
                return False
            digests[index : index + 1] = [self._files.write(path, parts)]
        tail = self._sequence.snapshot(mark, len(point.chunks) * tokens, point.length)
        if tail is None:
            return False
        rings = [part for ring in mark.cache.rings for part in ring]
        self._files.write(point.path, [b"".join(digests), mark.hidden, *tail, *rings])
        with self._sequence.protecting(mark) as is_protected:
            if is_protected:
                self._digests = digests
        return True


class _Reader:
    """Takes one tensor after another from the content of a file."""

    def __init__(self, content: bytearray, offset: int = 0) -> None:
        self._content = content
        self._offset = offset

    def take(self, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """Return the next tensor, as a view."""
        count = torch.Size(shape).numel()
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        tensor = torch.frombuffer(self._content, dtype=dtype, count=count, offset=self._offset)
        self._offset += tensor.nbytes
        return tensor.view(shape)


class _Layout:
    """The shapes of a cache, as its files have them."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        keys, _ = cache.layers[0].buffers()
        self._dtype, self._shape = keys.dtype, keys.shape[1:]
        self._ring_shape = (cache.window, *self._shape)
        kinds = "".join("s" if layer in cache.sliding_layers else "f" for layer in cache.layers)
        self.key = f"{self._dtype} {tuple(self._ring_shape)} {kinds}"
        self._pair_bytes = 2 * keys.element_size() * self._shape.numel()  # of a position in a layer
        self.ring_bytes = self._pair_bytes * cache.window * len(cache.sliding_layers)

    def full_bytes(self, positions: int) -> int:
        """Return the size of `positions` of all full layers."""
        return positions * self._pair_bytes * len(self._cache.full_layers)

    def allocate(self, positions: int) -> None:
        """Grow the full layers at once to the size that they will have."""
        for layer in self._cache.full_layers:
            layer.slots(positions)

    def fill_full(self, reader: _Reader, first: int, positions: int) -> None:
        """Copy keys and values [N, K, D] from a file to the full layers, from position `first` on."""
        shape = (positions, *self._shape)
        for layer in self._cache.full_layers:
            layer.append(reader.take(self._dtype, shape), reader.take(self._dtype, shape), first)

    def take_ring(self, reader: _Reader) -> tuple[Tensor, Tensor]:
        """Return keys and values [W, K, D] of the next ring in a file."""
        return reader.take(self._dtype, self._ring_shape), reader.take(self._dtype, self._ring_shape)


def _name(before: str, kind: str, ids: abc.Sequence[int]) -> str:
    return hashlib.sha256(f"{before} {kind} ".encode() + array("q", ids).tobytes()).hexdigest()


def _bytes_of(part: Tensor | bytes) -> memoryview:
    if isinstance(part, bytes):
        return memoryview(part)
    return part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _stored_digest(path: Path) -> bytes | None:
    """Return the digest in a file, which is not verified; None if there is no such file."""
    last = read_file(path, min_bytes=_DIGEST_BYTES, max_bytes=sys.maxsize, last_bytes=_DIGEST_BYTES)
    return None if last is None else bytes(last)
