"""Fetches one file in parallel parts and computes its digest as the bytes arrive.

Threads fetch segments in the file's order and only ever append to them; the calling thread hashes behind them, watches,
and alone gives the file its name. Whatever stops it, what has arrived is found again by the next call.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from gptoss_cli.checkpoint.hub import Body, Hub, TransientError
from gptoss_cli.checkpoint.manifest import CheckpointFile, Manifest
from gptoss_cli.checkpoint.partial import PartialFile, Segment, SegmentWriter, is_full, writing
from gptoss_cli.checkpoint.verify import Watcher
from gptoss_cli.errors import IntegrityError, NetworkError, ResourceError

_CONNECTIONS = 4
_HASHED_AT_ONCE_BYTES = 1 << 20
_WRITTEN_AT_ONCE_BYTES = 512 << 10
_LONGEST_GATHERED_SECONDS = 0.1
# An attempt that brings less than this has failed; a line that brings more gets as many attempts as it needs.
_PROGRESS_BYTES = 256 << 10
# A connection that brings less than this while it could stall is no better than a stalled one.
_TRICKLE_BYTES = 16 << 10
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait for a server before giving up."""

    connect_seconds: float = 6.0
    stall_seconds: float = 30.0
    attempts: int = 6
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 120.0

    def pause_seconds(self, failures: int, asked_seconds: float | None) -> float:
        """How long to wait after so many failures in a row; at least what the server asked for."""
        return max(asked_seconds or 0.0, self.first_pause_seconds * 2.0 ** (failures - 1))


@dataclass(frozen=True, slots=True)
class TransferContext:
    """What all files of one download share. Once `stop` is set, whatever is going on ends with KeyboardInterrupt."""

    hub: Hub
    manifest: Manifest
    patience: RetryPolicy
    watcher: Watcher
    stop: threading.Event


def fetch_file(line: TransferContext, file: CheckpointFile, *, folder: Path, target: Path) -> None:
    """Fetch `file` to `target` by way of `folder`; returns when it is there and its digest is right.

    Raises KeyboardInterrupt, NetworkError, IntegrityError if the bytes are wrong, or ResourceError if the disk fails.
    What has arrived stays, except where the disk is full or the bytes are wrong.
    """
    while True:
        partial = PartialFile(folder, file)
        resumed = partial.done_bytes > 0
        partial.prepare()
        line.watcher.begin(file.name, partial.done_bytes, file.size_bytes)
        if _Transfer(line, file, partial).run() == file.digest.hex:
            break
        partial.remove()
        # What an earlier run left may have been lost with the power: the server is not to blame yet.
        if not resumed:
            raise IntegrityError(
                f"{file.name} came with the wrong digest and was thrown away. Run the same command again"
            )
    partial.put_in_place(target)
    line.watcher.end(file.name)


class _JoinedError(Exception):
    """The server has no ranges, and the file is one segment now."""


class _Transfer:
    """One attempt at one file."""

    def __init__(self, line: TransferContext, file: CheckpointFile, partial: PartialFile) -> None:
        self._line, self._file, self._partial = line, file, partial
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._waiting = self._unfinished()
        self._has_helpers = False

    def run(self) -> str:
        """Fetch what is missing; the hex digest of the whole."""
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
        """Follow the front of what has arrived."""
        digest, position = self._file.digest.start(self._file.size_bytes), 0
        block = memoryview(bytearray(_HASHED_AT_ONCE_BYTES))
        with self._partial.data.open("rb", buffering=0) as data:
            while position < self._file.size_bytes:
                front = self._wait_for_front(position)
                while position < front and not self._line.stop.is_set():
                    count = data.readinto(block[: front - position]) or 0
                    if not count:
                        raise ResourceError(f"{self._partial.data} was cut short by another program. Try again")
                    digest.update(block[:count])
                    position += count
        return digest.hexdigest()

    def _wait_for_front(self, position: int) -> int:
        """Where the arrived bytes end, once that is past `position`."""
        while True:
            if self._line.stop.is_set():
                raise KeyboardInterrupt
            if self._failure is not None:
                raise self._failure
            front = self._partial.front_byte
            if front > position:
                return front
            with self._changed:
                self._changed.wait(_LOOK_SECONDS)

    def _unfinished(self) -> Iterator[Segment]:
        return iter([segment for segment in self._partial.segments if not segment.is_done])

    def _start_thread(self) -> None:
        # A daemon: one that hangs in the network must not hold up the program's end.
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        try:
            while not self._ended.is_set() and (segment := self._take()) is not None:
                try:
                    self._fetch(segment)
                except _JoinedError:
                    self._waiting = self._unfinished()
        except Exception as exc:  # noqa: BLE001  raised again in the calling thread
            self._failure = self._failure or exc
        self._tell()

    def _take(self) -> Segment | None:
        with self._changed:
            return next(self._waiting, None)

    def _tell(self) -> None:
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
        self._tell()

    def _pause(self, failures: int, error: TransientError) -> None:
        """Raises NetworkError when it is time to give up."""
        patience = self._line.patience
        kept = "What has arrived is kept: run the same command again"
        if failures > patience.attempts:
            raise NetworkError(f"{self._file.name}: {error}, {failures} times in a row. {kept}") from error
        seconds = patience.pause_seconds(failures, error.wait_seconds)
        if seconds > patience.longest_pause_seconds:
            raise NetworkError(
                f"{self._file.name}: {error}, and asks for {seconds:,.0f} s of patience. {kept}"
            ) from error
        self._ended.wait(seconds)

    def _attempt(self, segment: Segment) -> None:
        """Ask once for what `segment` lacks. Returns early if the server sends less."""
        hub, manifest = self._line.hub, self._line.manifest
        with hub.open(manifest, self._file, segment.next_byte, segment.end_byte) as body:
            if body.is_whole and len(self._partial.segments) > 1:
                if self._has_helpers:
                    raise TransientError("the server sends the whole file though asked for a part")
                self._partial.join()
                raise _JoinedError
            if not body.is_whole:
                self._call_helpers()
            self._append(body, segment)

    def _call_helpers(self) -> None:
        if not self._has_helpers:
            self._has_helpers = True
            for _ in range(min(_CONNECTIONS, len(self._partial.segments)) - 1):
                self._start_thread()

    def _append(self, body: Body, segment: Segment) -> None:
        with self._partial.writer(segment) as writer, _Gathered(self._line, self._file, writer) as gathered:
            skip_bytes = segment.next_byte - body.start_byte
            left_bytes = segment.end_byte - segment.next_byte
            since, arrived_bytes = time.monotonic(), 0
            for block in body.blocks:
                if self._ended.is_set():
                    return
                new = memoryview(block)[skip_bytes:]
                skip_bytes = max(0, skip_bytes - len(block))
                gathered.add(new[:left_bytes])
                if len(new) > left_bytes:
                    return
                left_bytes -= len(new)
                arrived_bytes += len(block)
                if time.monotonic() - since > self._line.patience.stall_seconds:
                    if arrived_bytes < _TRICKLE_BYTES:
                        raise TransientError("the connection stalls")
                    since, arrived_bytes = time.monotonic(), 0


class _Gathered:
    """Writes what arrives in larger blocks, and none later than a moment: five threads that write often are slow."""

    def __init__(self, line: TransferContext, file: CheckpointFile, writer: SegmentWriter) -> None:
        self._line, self._file, self._writer = line, file, writer
        self._bytes = bytearray()
        self._since = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._write()

    def add(self, block: memoryview) -> None:
        self._bytes += block
        if len(self._bytes) >= _WRITTEN_AT_ONCE_BYTES or time.monotonic() - self._since > _LONGEST_GATHERED_SECONDS:
            self._write()

    def _write(self) -> None:
        gathered, self._bytes, self._since = self._bytes, bytearray(), time.monotonic()
        self._writer.write(gathered)
        self._line.watcher.advance(self._file.name, len(gathered))
