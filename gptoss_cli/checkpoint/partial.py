"""A file that is being downloaded, on disk. It survives a killed process at any moment.

Beside the data lies a record of how much of each segment has arrived. The record is written after the bytes that it
counts, so it never counts too many. If the system fails between the two writes, the digest shows it.
"""

import errno
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from gptoss_cli.checkpoint.manifest import CheckpointFile
from gptoss_cli.errors import GptossError, Hint, ResourceError
from gptoss_cli.files import public_mode, read_regular, replace_file

# The record: the size of the file and of a segment, then the number of bytes of each segment.
_HEAD = struct.Struct("<QQ")
_COUNT = struct.Struct("<Q")
_SMALLEST_SEGMENT_BYTES = 16 << 20
_LARGEST_SEGMENT_BYTES = 64 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn OSError into a ResourceError that names the place on disk."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise ResourceError(f"The disk that holds {path.parent} is full", Hint.FREE_DISK_SPACE) from exc
        message = f"{path} cannot be written: {exc.strerror or exc}"
        raise ResourceError(message, Hint.ANOTHER_DATA_FOLDER) from exc


class Segment:
    """A range of a file, filled from its start. Written by one thread, read by any."""

    def __init__(self, number: int, start_byte: int, length_bytes: int, done_bytes: int) -> None:
        self.number, self.start_byte, self.length_bytes = number, start_byte, length_bytes
        self.done_bytes = done_bytes

    @property
    def next_byte(self) -> int:
        return self.start_byte + self.done_bytes

    @property
    def end_byte(self) -> int:
        return self.start_byte + self.length_bytes

    @property
    def is_done(self) -> bool:
        return self.done_bytes == self.length_bytes


class SegmentWriter:
    """A context manager that appends to one segment. Raises ResourceError."""

    def __init__(self, data: Path, record: Path, segment: Segment) -> None:
        self._path, self._record_path, self._segment = data, record, segment

    def __enter__(self) -> Self:
        with writing(self._path):
            self._data: BinaryIO = self._path.open("r+b", buffering=0)
            self._record: BinaryIO = self._record_path.open("r+b", buffering=0)
            self._data.seek(self._segment.next_byte)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._data.close()
        self._record.close()

    def write(self, block: bytes | bytearray | memoryview) -> None:
        """Append bytes, which must not exceed the segment."""
        rest = memoryview(block)
        assert len(rest) <= self._segment.length_bytes - self._segment.done_bytes
        with writing(self._path):
            while rest:
                count = self._data.write(rest)
                self._segment.done_bytes += count
                rest = rest[count:]
            self._record.seek(_record_offset(self._segment))
            self._record.write(_COUNT.pack(self._segment.done_bytes))


class PartialFile:
    """A file that is being downloaded into `folder`. Its methods raise ResourceError."""

    def __init__(self, folder: Path, file: CheckpointFile) -> None:
        self._file = file
        self.data = folder / f"{file.digest.hex}.part"
        self._record = folder / f"{file.digest.hex}.state"
        self.segments = self._recorded_segments()

    @property
    def done_bytes(self) -> int:
        """The number of bytes that have arrived."""
        return sum(segment.done_bytes for segment in self.segments)

    @property
    def front_byte(self) -> int:
        """The first byte that has not arrived."""
        unfinished = next((segment for segment in self.segments if not segment.is_done), None)
        return self._file.size_bytes if unfinished is None else unfinished.next_byte

    def prepare(self) -> None:
        """Create the files on disk unless they exist."""
        if not self.segments:
            size = self._file.size_bytes
            self._begin(min(max(size // 64, _SMALLEST_SEGMENT_BYTES), _LARGEST_SEGMENT_BYTES), 0)

    def join(self) -> None:
        """Become one segment, for a server that can only send a file from its start. No thread may be writing."""
        self._begin(max(self._file.size_bytes, 1), self.front_byte)

    def writer(self, segment: Segment) -> SegmentWriter:
        return SegmentWriter(self.data, self._record, segment)

    def remove(self) -> None:
        """Delete both files, as far as possible."""
        for path in (self._record, self.data):
            with suppress(OSError):
                path.unlink()

    def put_in_place(self, target: Path) -> None:
        """Give the file its final name."""
        with writing(target):
            self.data.replace(target)
            self._record.unlink()

    def _begin(self, segment_bytes: int, done_bytes: int) -> None:
        with writing(self.data):
            self._record.unlink(missing_ok=True)  # until the new record is written, no byte counts as arrived
            if not self.data.is_file():
                self.data.unlink(missing_ok=True)  # opening a FIFO would wait
            with self.data.open("ab") as data:
                data.truncate(self._file.size_bytes)
            self.segments = _divided(self._file.size_bytes, segment_bytes)
            if done_bytes:
                self.segments[0].done_bytes = done_bytes
            counts = (_COUNT.pack(segment.done_bytes) for segment in self.segments)
            record = _HEAD.pack(self._file.size_bytes, segment_bytes) + b"".join(counts)
            replace_file(self._record, record, mode=public_mode())

    def _recorded_segments(self) -> list[Segment]:
        """Return the segments of an earlier process, none if its record is missing or inconsistent."""
        try:
            record = read_regular(self._record)
            if self.data.stat().st_size != self._file.size_bytes or len(record) < _HEAD.size:
                return []
        except OSError:
            return []
        size_bytes, segment_bytes = _HEAD.unpack_from(record)
        if size_bytes != self._file.size_bytes or not segment_bytes:
            return []
        if len(record) != _HEAD.size + _COUNT.size * -(-size_bytes // segment_bytes):
            return []
        segments = _divided(size_bytes, segment_bytes)
        for segment in segments:
            (segment.done_bytes,) = _COUNT.unpack_from(record, _record_offset(segment))
        return segments if all(segment.done_bytes <= segment.length_bytes for segment in segments) else []


def _divided(size_bytes: int, segment_bytes: int) -> list[Segment]:
    starts = range(0, size_bytes, segment_bytes)
    return [Segment(number, at, min(segment_bytes, size_bytes - at), 0) for number, at in enumerate(starts)]


def _record_offset(segment: Segment) -> int:
    return _HEAD.size + _COUNT.size * segment.number


def is_full(error: GptossError) -> bool:
    """Return True if a ResourceError was caused by a full disk."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in _FULL
