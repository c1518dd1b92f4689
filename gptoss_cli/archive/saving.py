"""The recorder that writes to the archive while a chat goes on."""

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gptoss_cli.archive.archive import Archive, Stored, fork_rows, load_rows
from gptoss_cli.archive.database import WAIT_SECONDS, Notice
from gptoss_cli.archive.recorder import Snapshot
from gptoss_cli.archive.rows import (
    ConversationRow,
    Status,
    TitledBy,
    insert_attachments,
    insert_conversation,
    insert_message,
    insert_turn,
    move_tip,
    new_id,
    select_conversation,
    turn_row,
    update_conversation,
    update_message,
)
from gptoss_cli.archive.titles import title_line
from gptoss_cli.errors import GptossError, Hint
from gptoss_cli.harmony.events import (
    AnswerDelta,
    CallDelta,
    Channel,
    Delta,
    Event,
    Message,
    MessageEnd,
    PreambleDelta,
    ReasoningDelta,
    Role,
    TurnEnd,
)

# A crash loses no more than 2 seconds: this leaves time for the token that exceeds it, and for the disk.
PARTIAL_SECONDS: Final = 1.5
# A partial answer is not worth making the reader wait for another program; the end of the turn is.
_PARTIAL_WAIT_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The model that answers, a title that the user gave, and the working folder, which is only shown."""

    model: str
    identity: str
    title: str | None = None
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class _Saved:
    """A message of the current path that is in the database."""

    message: Message
    row: int
    # Still growing: the row may be updated.
    is_live: bool = False


@dataclass(frozen=True, slots=True)
class _State:
    """The conversation as it is in the database after the last transaction.

    `exists` False: the conversation is not in the file, for instance because the file was deleted.
    """

    id: str | None
    generation: int
    exists: bool = False
    tip: int | None = None
    path: tuple[_Saved, ...] = ()


class ArchiveRecorder:
    """Saves one conversation. See `recorder.Recorder` for the protocol.

    Nothing is written before there is a message. Each call compares the conversation with the rows of the last one:
    new messages are added below the last that both share, and the tip moves there, so that taking messages back
    overwrites nothing. A call after a failed one saves what that did not.

    `origin` may be replaced between turns, when another model is to answer. `resumed` is the conversation to
    continue; if it is a fork, the copy is written with its first change.
    Without `keep_reasoning` the reasoning of the model is left out.
    `wait_seconds` is how long the beginning and the end of a turn wait for another program's transaction.
    `notice` gets one line when saving fails, again only after it succeeded, and one when the conversation had to be
    forked because another program continues it.
    """

    def __init__(
        self,
        archive: Archive,
        origin: Origin,
        *,
        notice: Notice,
        resumed: Stored | None = None,
        keep_reasoning: bool = True,
        wait_seconds: float = WAIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._archive = archive
        self.origin = origin
        self._notice = notice
        self._keep_reasoning = keep_reasoning
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._state = _State(None, archive.database.generation)
        if resumed is not None:
            name = None if resumed.is_fork else resumed.row.id
            self._state = _State(
                name, archive.database.generation, name is not None, resumed.row.tip, _saved_path(resumed)
            )
        self._fork_of = resumed if resumed is not None and resumed.is_fork else None
        self._snapshot: Snapshot | None = None
        self._turn = _RunningTurn()
        self._written_at = clock()
        self._failing = self._given_up = False

    @property
    def conversation(self) -> str | None:
        """The id of the conversation if anything of it was saved. It changes when a fork becomes necessary."""
        return self._state.id if self._state.exists else None

    @property
    def pending_fork(self) -> Stored | None:
        """The conversation that this one is a copy of, while nothing of the copy is in the file."""
        return self._fork_of if self._state.id is None else None

    def record(self, snapshot: Snapshot) -> None:
        """Save the conversation as it stands."""
        self._snapshot = snapshot
        self._turn = _RunningTurn()
        self._save(snapshot.messages)

    def listen(self, event: Event) -> None:
        """Collect the events of the running turn and save its messages now and then."""
        self._turn.feed(event)
        now = self._clock()
        if now - self._written_at < PARTIAL_SECONDS or self._snapshot is None or not self._turn.has_news:
            return
        self._turn.has_news = False
        self._save((*self._snapshot.messages, *self._turn.messages), partial=True)

    def finish(self, snapshot: Snapshot, end: TurnEnd) -> None:
        """Save the end of the running turn in one transaction."""
        self._turn = _RunningTurn()
        if self._snapshot is not None:
            self._snapshot = replace(snapshot, messages=self._snapshot.messages, attachments=self._snapshot.attachments)
            self._save(snapshot.messages, end=end)

    def _save(self, messages: Sequence[Message], *, partial: bool = False, end: TurnEnd | None = None) -> None:
        if self._given_up or not self._has_news(messages):
            return
        before = self._state
        wait_seconds = _PARTIAL_WAIT_SECONDS if partial else self._wait_seconds
        try:
            with self._archive.database.transaction(wait_seconds=wait_seconds) as connection:
                forked = self._ensure_conversation(connection)
                self._write(connection, messages, partial=partial, end=end)
        except BaseException as exc:
            # The transaction left no trace: neither may it here.
            self._state = before
            if not isinstance(exc, GptossError):
                raise
            self._report(exc, partial=partial)
        else:
            self._failing = False
            if forked:
                self._notice("Another program continues this conversation. This chat is saved as a new one.")
        finally:
            self._written_at = self._clock()

    def _has_news(self, messages: Sequence[Message]) -> bool:
        if self.pending_fork is not None:
            return tuple(messages) != self.pending_fork.current
        return bool(messages) or self._state.exists

    def _ensure_conversation(self, connection: sqlite3.Connection) -> bool:
        """Create the conversation, or fork it and return True if another program moved its tip."""
        if self._state.generation != self._archive.database.generation:
            self._state = _State(self._state.id, generation=self._archive.database.generation)
        state = self._state
        if self.pending_fork is not None:
            self._begin_fork(connection, self.pending_fork)
            return False
        if not state.exists:
            # A file that was put in the place of the old one may have the conversation as it was once.
            is_taken = state.id is not None and select_conversation(connection, state.id) is not None
            new = self._new_row(None if is_taken else state.id)
            insert_conversation(connection, new)
            self._state = replace(state, id=new.id, exists=True)
            return False
        assert state.id is not None
        row = select_conversation(connection, state.id)
        if row is None:
            self._given_up = True
            raise GptossError("the conversation was removed")
        if row.tip == state.tip:
            return False
        tip = state.path[-1].row if state.path else None
        self._continue_as_copy(connection, load_rows(connection, row), tip, state.path)
        return True

    def _begin_fork(self, connection: sqlite3.Connection, stored: Stored) -> None:
        title = title_line(self.origin.title or "")
        if title:
            stored = replace(stored, row=replace(stored.row, title=title, titled_by=TitledBy.USER))
        self._continue_as_copy(connection, stored, stored.row.tip, _saved_path(stored))

    def _continue_as_copy(
        self, connection: sqlite3.Connection, stored: Stored, tip: int | None, path: Sequence[_Saved]
    ) -> None:
        """Copy `stored` up to `tip`, and continue the copy; `path` are its messages up to there."""
        fork = load_rows(connection, fork_rows(connection, stored, tip, moment=time.time()))
        copied = tuple(replace(old, row=new.id) for old, new in zip(path, fork.path, strict=True))
        self._state = replace(self._state, id=fork.row.id, exists=True, tip=fork.row.tip, path=copied)

    def _new_row(self, conversation: str | None) -> ConversationRow:
        snapshot, now = self._snapshot, time.time()
        assert snapshot is not None
        first = next((each.text for each in snapshot.messages if each.role is Role.USER), "")
        given = title_line(self.origin.title or "")
        title = given or title_line(first)
        return ConversationRow(
            id=conversation or new_id(now),
            title=title or None,
            titled_by=TitledBy.USER if given else TitledBy.FIRST_MESSAGE if title else None,
            model=self.origin.model,
            identity=self.origin.identity,
            instructions=snapshot.instructions,
            date=snapshot.date.isoformat(),
            settings=self._settings(snapshot),
            created=now,
            updated=now,
        )

    def _write(
        self, connection: sqlite3.Connection, messages: Sequence[Message], *, partial: bool, end: TurnEnd | None
    ) -> None:
        """Make the current path equal to `messages` and move the tip to its end."""
        snapshot, state = self._snapshot, self._state
        assert snapshot is not None
        assert state.id is not None
        turn = None if end is None else insert_turn(connection, state.id, turn_row(end, snapshot.settings))
        path: list[_Saved] = []
        for index, message in enumerate(messages):
            saved = self._saved(len(path), path, message)
            if saved is None and self._is_left_out(message):
                continue
            is_new = saved is None
            if saved is None or saved.is_live:
                growing = partial and index == len(messages) - 1 and not message.complete
                saved = self._write_message(connection, path, message, saved, growing=growing)
            if is_new and index == len(snapshot.messages) - 1:
                insert_attachments(connection, saved.row, snapshot.attachments)
            if turn is not None and index >= len(snapshot.messages):
                connection.execute("UPDATE message SET turn = ? WHERE id = ?", (turn, saved.row))
            path.append(saved)
        tip = path[-1].row if path else None
        moved = move_tip(connection, state.id, state.tip, tip)
        assert moved, "the tip was compared in this transaction"
        self._update_conversation(connection)
        self._state = replace(state, tip=tip, path=tuple(path))

    def _update_conversation(self, connection: sqlite3.Connection) -> None:
        snapshot = self._snapshot
        assert snapshot is not None
        values = {
            "model": self.origin.model,
            "identity": self.origin.identity,
            "instructions": snapshot.instructions,
            "date": snapshot.date.isoformat(),
            "settings": json.dumps(self._settings(snapshot)),
        }
        assert self._state.id is not None
        update_conversation(connection, self._state.id, values)

    def _settings(self, snapshot: Snapshot) -> dict[str, object]:
        folder = self.origin.folder
        return {**snapshot.settings, **({} if folder is None else {"folder": folder})}

    def _saved(self, place: int, path: Sequence[_Saved], message: Message) -> _Saved | None:
        """Return the row of `message` if the path so far is the saved one and continues with it."""
        known = self._state.path
        if place >= len(known) or (path and path[-1].row != known[place - 1].row):
            return None
        old = known[place]
        if old.is_live:
            grows = old.message.role is message.role and message.text.startswith(old.message.text)
            return old if grows else None
        return old if old.message == message else None

    def _write_message(
        self,
        connection: sqlite3.Connection,
        path: Sequence[_Saved],
        message: Message,
        live: _Saved | None,
        *,
        growing: bool,
    ) -> _Saved:
        status = Status.PARTIAL if growing else Status.COMPLETE if message.complete else Status.INTERRUPTED
        if live is not None:
            update_message(connection, live.row, message, status)
            return _Saved(message, live.row, growing)
        assert self._state.id is not None
        parent = path[-1].row if path else None
        return _Saved(message, insert_message(connection, self._state.id, parent, message, status), growing)

    def _is_left_out(self, message: Message) -> bool:
        reasoning = message.role is Role.ASSISTANT and message.is_reasoning and not message.is_call
        return reasoning and not self._keep_reasoning

    def _report(self, exc: GptossError, *, partial: bool) -> None:
        if partial and Hint.RETRY_LATER in exc.hints:
            return
        if not self._failing:
            self._notice(f"This chat is not saved: {exc}.")
        self._failing = True


def _saved_path(stored: Stored) -> tuple[_Saved, ...]:
    return tuple(_Saved(each.message, each.id) for each in stored.path)


class _RunningTurn:
    """The messages of a turn so far, the last of which may be partial."""

    def __init__(self) -> None:
        self.has_news = False
        self._finished: list[Message] = []
        self._template: Message | None = None
        self._pieces: list[str] = []

    @property
    def messages(self) -> tuple[Message, ...]:
        """The finished messages, then the partial one if it has any text."""
        if self._template is None:
            return tuple(self._finished)
        return (*self._finished, replace(self._template, text="".join(self._pieces)))

    def feed(self, event: Event) -> None:
        """Take note of one event."""
        if isinstance(event, MessageEnd):
            self._finished.append(event.message)
            self._template = None
            self._pieces = []
        elif isinstance(event, Delta):
            if self._template is None:
                self._template = _template(event)
            self._pieces.append(event.text)
        else:
            return
        self.has_news = True


def _template(delta: Delta) -> Message:
    """Return an empty partial message; its header is a guess until the message ends."""
    match delta:
        case AnswerDelta():
            channel, recipient = Channel.FINAL, None
        case CallDelta(recipient=name):
            channel, recipient = Channel.COMMENTARY, name
        case PreambleDelta():
            channel, recipient = Channel.COMMENTARY, None
        case ReasoningDelta():
            channel, recipient = Channel.ANALYSIS, None
    return Message(Role.ASSISTANT, "", channel, recipient, complete=False)
