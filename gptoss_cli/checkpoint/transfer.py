"""Download one file in parallel segments, and compute its digest as the bytes arrive.

Threads download segments in the order of the file and only append to them. The calling thread hashes the bytes that
have arrived and gives the finished file its name. Bytes that have arrived are kept for the next call, however this one
ends.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from gptoss_cli.checkpoint.connection import Timeout
from gptoss_cli.checkpoint.hub import Body, Hub, TransientError
from gptoss_cli.checkpoint.manifest import CheckpointFile, Manifest
from gptoss_cli.checkpoint.partial import PartialFile, Segment, SegmentWriter, is_full, writing
from gptoss_cli.checkpoint.verify import Progress
from gptoss_cli.errors import Hint, IntegrityError, NetworkError, ResourceError
from gptoss_cli.units import duration_words

_CONNECTIONS = 4
_HASH_BLOCK_BYTES = 1 << 20
_WRITE_BLOCK_BYTES = 512 << 10
_MAX_BUFFERED_SECONDS = 0.1
# An attempt that brings less than this counts as failed; after more progress the count starts again.
_PROGRESS_BYTES = 256 << 10
# A connection that brings less than this within the stall timeout counts as stalled.
_STALLED_BYTES = 16 << 10
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Timeouts, and the number of attempts and the pauses between them."""

    listing: Timeout = field(default_factory=Timeout.for_listing)
    transfer: Timeout = field(default_factory=Timeout.for_transfer)
    attempts: int = 6
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 120.0

    def pause_seconds(self, failures: int, asked_seconds: float | None) -> float:
        """Return the pause after `failures` in a row: exponential, and at least what the server asked for."""
        return max(asked_seconds or 0.0, self.first_pause_seconds * 2.0 ** (failures - 1))


@dataclass(frozen=True, slots=True)
class TransferContext:
    """The things that all files of one download share. Once `stop` is set, transfers raise KeyboardInterrupt."""

    hub: Hub
    manifest: Manifest
    retry_policy: RetryPolicy
    progress: Progress
    stop: threading.Event


def fetch_file(context: TransferContext, file: CheckpointFile, *, folder: Path, target: Path) -> None:
    """Download `file` into `folder`, verify its digest, and move it to `target`.

    Raises KeyboardInterrupt, NetworkError, IntegrityError if the digest is wrong, or ResourceError if the disk fails.
    Bytes that have arrived are kept, unless the disk is full or the digest is wrong.
    """
    while True:
        partial = PartialFile(folder, file)
        resumed = partial.done_bytes > 0
        partial.prepare()
        context.progress.begin(file.name, partial.done_bytes, file.size_bytes)
        if _Transfer(context, file, partial).run() == file.digest.hex:
            break
        partial.remove()
        # After a resume the fault may lie in what an earlier run left on disk: try once more from the start.
        if not resumed:
            raise IntegrityError(f"{file.name} arrived with the wrong digest and was deleted", Hint.RETRY)
    partial.put_in_place(target)
    context.progress.end(file.name)


class _JoinedError(Exception):
    """The server does not support ranges, and the file is one segment now."""


class _Transfer:
    """One download of one file."""

    def __init__(self, context: TransferContext, file: CheckpointFile, partial: PartialFile) -> None:
        self._context, self._file, self._partial = context, file, partial
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._queue = self._unfinished()
        self._is_parallel = False

    def run(self) -> str:
        """Download the missing bytes and return the hex digest of the file."""
        try:
            self._start_thread()
            with writing(self._partial.data):
                return self._hash()
        except ResourceError as exc:
            if is_full(exc):
                self._partial.remove()
            raise
        finally:
            self._ended.set()

    def _hash(self) -> str:
        """Hash the bytes in order as they arrive."""
        digest, position = self._file.digest.start(self._file.size_bytes), 0
        block = memoryview(bytearray(_HASH_BLOCK_BYTES))
        with self._partial.data.open("rb", buffering=0) as data:
            while position < self._file.size_bytes:
                front = self._wait_for_front(position)
                while position < front and not self._context.stop.is_set():
                    count = data.readinto(block[: front - position]) or 0
                    if not count:
                        raise ResourceError(f"{self._partial.data} was truncated by another program", Hint.RETRY)
                    digest.update(block[:count])
                    position += count
        return digest.hexdigest()

    def _wait_for_front(self, position: int) -> int:
        """Wait for bytes after `position`, and return the first byte that has not arrived."""
        while True:
            if self._context.stop.is_set():
                raise KeyboardInterrupt
            if self._failure is not None:
                raise self._failure
            front = self._partial.front_byte
            if front > position:
                return front
            with self._changed:
                self._changed.wait(_POLL_SECONDS)

    def _unfinished(self) -> Iterator[Segment]:
        return iter([segment for segment in self._partial.segments if not segment.is_done])

    def _start_thread(self) -> None:
        # A daemon, so that a thread that hangs in the network does not keep the program from ending.
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        try:
            while not self._ended.is_set() and (segment := self._take()) is not None:
                try:
                    self._fetch(segment)
                except _JoinedError:
                    self._queue = self._unfinished()
        except Exception as exc:  # noqa: BLE001  raised again in the calling thread
            self._failure = self._failure or exc
        self._notify()

    def _take(self) -> Segment | None:
        with self._changed:
            return next(self._queue, None)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _fetch(self, segment: Segment) -> None:
        failures = 0
        while not segment.is_done and not self._ended.is_set():
            before = segment.done_bytes
            error = TransientError("the connection was cut")
            try:
                self._attempt(segment)
            except TransientError as exc:
                error = exc
            if not segment.is_done:
                failures = failures + 1 if segment.done_bytes - before < _PROGRESS_BYTES else 1
                self._pause(failures, error)
        self._notify()

    def _pause(self, failures: int, error: TransientError) -> None:
        """Wait before the next attempt. Raises NetworkError after too many attempts."""
        policy = self._context.retry_policy
        kept = "What has arrived is kept"
        if failures > policy.attempts:
            message = f"{self._file.name}: {error}, {failures} times in a row. {kept}"
            raise NetworkError(message, Hint.RETRY) from error
        seconds = policy.pause_seconds(failures, error.wait_seconds)
        if seconds > policy.longest_pause_seconds:
            message = f"{self._file.name}: {error}, and asks to wait {duration_words(seconds)}. {kept}"
            raise NetworkError(message, Hint.RETRY_LATER) from error
        self._context.hub.announce_pause(error, seconds)
        self._ended.wait(seconds)

    def _attempt(self, segment: Segment) -> None:
        """Request the missing bytes of `segment` once. The server may send fewer."""
        hub, manifest = self._context.hub, self._context.manifest
        with hub.open(manifest, self._file, segment.next_byte, segment.end_byte) as body:
            if body.is_whole and len(self._partial.segments) > 1:
                if self._is_parallel:
                    raise TransientError("the server sends the whole file instead of a range")
                self._partial.join()
                raise _JoinedError
            if not body.is_whole:
                self._start_more_threads()
            self._append(body, segment)

    def _start_more_threads(self) -> None:
        if not self._is_parallel:
            self._is_parallel = True
            for _ in range(min(_CONNECTIONS, len(self._partial.segments)) - 1):
                self._start_thread()

    def _append(self, body: Body, segment: Segment) -> None:
        with self._partial.writer(segment) as writer, _BufferedWriter(self._context, self._file, writer) as buffered:
            skip_bytes = segment.next_byte - body.start_byte
            left_bytes = segment.end_byte - segment.next_byte
            since, arrived_bytes = time.monotonic(), 0
            for block in body.blocks:
                if self._ended.is_set():
                    return
                new = memoryview(block)[skip_bytes:]
                skip_bytes = max(0, skip_bytes - len(block))
                buffered.add(new[:left_bytes])
                if len(new) > left_bytes:
                    return
                left_bytes -= len(new)
                arrived_bytes += len(block)
                if time.monotonic() - since > self._context.retry_policy.transfer.read_seconds:
                    if arrived_bytes < _STALLED_BYTES:
                        raise TransientError("the connection stalls")
                    since, arrived_bytes = time.monotonic(), 0


class _BufferedWriter:
    """A buffer in front of a SegmentWriter: many small writes from several threads are slow. It delays them little."""

    def __init__(self, context: TransferContext, file: CheckpointFile, writer: SegmentWriter) -> None:
        self._context, self._file, self._writer = context, file, writer
        self._bytes = bytearray()
        self._since = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._write()

    def add(self, block: memoryview) -> None:
        self._bytes += block
        if len(self._bytes) >= _WRITE_BLOCK_BYTES or time.monotonic() - self._since > _MAX_BUFFERED_SECONDS:
            self._write()

    def _write(self) -> None:
        block, self._bytes, self._since = self._bytes, bytearray(), time.monotonic()
        self._writer.write(block)
        self._context.progress.advance(self._file.name, len(block))
