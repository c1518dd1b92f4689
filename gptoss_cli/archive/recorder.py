"""The protocol through which a chat session tells what happens in it. Imports no database."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

# For annotations alone: a chat needs an Attachment before its prompt, and none of these.
if TYPE_CHECKING:
    from gptoss_cli.harmony.events import Event, Message, TurnEnd


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file whose text became part of a message."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A conversation as it stands: everything that its next prompt is made of.

    `messages` are all of the current path, reasoning and partial ones included. `settings` must be JSON values.
    `attachments` belong to the last message.
    """

    messages: tuple[Message, ...]
    instructions: str | None
    date: datetime.date
    settings: Mapping[str, object]
    attachments: tuple[Attachment, ...] = ()


class Recorder(Protocol):
    """A listener to one conversation. No method raises: a failure to save never ends a chat."""

    def record(self, snapshot: Snapshot) -> None:
        """Save the conversation as it stands.

        Call it before a turn generates anything, and whenever messages were taken back or settings changed.
        """

    def listen(self, event: Event) -> None:
        """Take note of an event of the running turn, whose messages follow those of the last `record`."""

    def finish(self, snapshot: Snapshot, end: TurnEnd) -> None:
        """Save the end of the turn that the last `record` began, however it ended."""


class NoRecorder:
    """The recorder of a conversation that is not saved."""

    def record(self, snapshot: Snapshot) -> None:
        """Do nothing."""

    def listen(self, event: Event) -> None:
        """Do nothing."""

    def finish(self, snapshot: Snapshot, end: TurnEnd) -> None:
        """Do nothing."""
