"""A request that has been read: its job, and the writer of its response."""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gptoss_cli.server.failures import ApiError
from gptoss_cli.server.job import Job


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event of a stream: its data, and its name if it has one."""

    data: dict[str, Any] | str
    name: str | None = None

    def encode(self) -> bytes:
        """Return the bytes of the event."""
        # Non-ASCII text is escaped: some clients split what they read at the separators of Unicode.
        data = self.data if isinstance(self.data, str) else json.dumps(self.data)
        head = f"event: {self.name}\n" if self.name else ""
        return f"{head}data: {data}\n\n".encode()


class Writer(Protocol):
    """Turns the events of a job into a response. Pure: no clock after its beginning, no I/O."""

    @property
    def ended(self) -> bool:
        """True if the last event of the job has come."""

    def begin(self) -> Sequence[ServerEvent]:
        """Return the events that a stream starts with."""

    def feed(self, event: object) -> Sequence[ServerEvent]:
        """Return the events of a stream for an event of the job."""

    def fail(self, failure: ApiError) -> Sequence[ServerEvent]:
        """Return the events that end a stream whose job has failed."""

    def result(self) -> dict[str, Any]:
        """Return the response without a stream. Call it after the last event. Raises ApiError if the job failed."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request that has been read."""

    job: Job
    writer: Writer
    stream: bool


def new_id(prefix: str) -> str:
    """Return an id that no other object has, such as `resp_…`."""
    return f"{prefix}_{uuid.uuid4().hex}" if not prefix.endswith("-") else f"{prefix}{uuid.uuid4().hex}"


def now() -> int:
    """Return the time as OpenAI's objects have it."""
    return int(time.time())
