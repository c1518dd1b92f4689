"""Conversations, messages and turns as rows: their values, and the statements that read and write them."""

import json
import secrets
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Final

import gptoss_cli
from gptoss_cli.archive.index import add_to_index, remove_from_index
from gptoss_cli.archive.recorder import Attachment
from gptoss_cli.harmony.events import Message, Role, TurnEnd

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
ID_LENGTH: Final = 26


class Status(StrEnum):
    """Progress of a message: finished, being written or cut by a crash, or cut short by the end of its turn."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    INTERRUPTED = "interrupted"


class TitledBy(StrEnum):
    """Origin of a title."""

    USER = "user"
    FIRST_MESSAGE = "first message"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationRow:
    """A conversation without its messages.

    `identity` is the checkpoint's digest, or the address of the server that has the model. `date` and `instructions`
    stand in the first messages of its prompts.
    `tip` is the last message of the current path, None before the first.
    """

    id: str
    title: str | None = None
    titled_by: TitledBy | None = None
    model: str
    identity: str
    instructions: str | None
    date: str
    settings: Mapping[str, object]
    created: float
    updated: float
    tip: int | None = None
    forked_from: str | None = None

    @property
    def folder(self) -> str | None:
        """The working folder of the conversation's first turn, None if it is not known. Only shown."""
        folder = self.settings.get("folder")
        return folder if isinstance(folder, str) else None


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message and its place in the tree; the root has the parent None."""

    id: int
    parent: int | None
    message: Message
    status: Status
    turn: int | None
    created: float
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRow:
    """The end of a turn. `sampling` and `cuts` are JSON."""

    id: int
    effort: str | None
    sampling: str | None
    seed: int | None
    reason: str | None
    cuts: str | None
    prompt_tokens: int | None
    prefilled_tokens: int | None
    reasoning_tokens: int | None
    answer_tokens: int | None
    first_token_seconds: float | None
    total_seconds: float | None
    version: str | None


_TURN_COLUMNS: Final = tuple(field.name for field in fields(TurnRow) if field.name != "id")
_CONVERSATION_COLUMNS: Final = tuple(field.name for field in fields(ConversationRow))
_LEAST_SECONDS: Final = 0.001  # between two conversations, so that one is later
_MESSAGE_COLUMNS: Final = "role, channel, recipient, content_type, name, text"


def new_id(moment: float | None = None) -> str:
    """Return 26 characters of Crockford's base 32 that sort by time: 48 bits of milliseconds, then 80 random ones."""
    milliseconds = int((time.time() if moment is None else moment) * 1000) & (1 << 48) - 1
    value = milliseconds << 80 | secrets.randbits(80)
    return "".join(_CROCKFORD[value >> 5 * place & 31] for place in reversed(range(ID_LENGTH)))


def storable(text: str) -> str:
    """Return `text` with surrogate pairs joined and lone ones replaced: SQLite stores UTF-8.

    Lone ones that stand for bytes, as Python reads arguments in a locale that lacks a character, become what they were.
    """
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def insert_conversation(connection: sqlite3.Connection, row: ConversationRow) -> None:
    """Add a conversation."""
    values = asdict(row) | {"settings": json.dumps(dict(row.settings))}
    marks = ", ".join("?" * len(_CONVERSATION_COLUMNS))
    texts = [storable(value) if isinstance(value, str) else value for value in values.values()]
    connection.execute(f"INSERT INTO conversation ({', '.join(_CONVERSATION_COLUMNS)}) VALUES ({marks})", texts)


def select_conversation(connection: sqlite3.Connection, conversation: str) -> ConversationRow | None:
    """Return a conversation, None if there is none with this id."""
    columns = ", ".join(_CONVERSATION_COLUMNS)
    found = connection.execute(f"SELECT {columns} FROM conversation WHERE id = ?", (conversation,)).fetchone()
    return None if found is None else conversation_row(found)


def conversation_row(values: Sequence[object]) -> ConversationRow:
    """Return the row that `values` are, in the order of its fields."""
    named = dict(zip(_CONVERSATION_COLUMNS, values, strict=True))
    titled_by = named["titled_by"]
    named["titled_by"] = None if titled_by is None else TitledBy(str(titled_by))
    named["settings"] = json.loads(str(named["settings"]))
    return ConversationRow(**named)  # type: ignore[arg-type]


def move_tip(connection: sqlite3.Connection, conversation: str, expected: int | None, tip: int | None) -> bool:
    """Make `tip` the last message if it is still `expected`. Return False if another program moved it.

    The conversation is then the one updated last, even if the clock was set back since another one was.
    """
    query = "SELECT max(updated) FROM conversation WHERE id <> ?"
    (latest,) = connection.execute(query, (conversation,)).fetchone()
    moment = time.time() if latest is None else max(time.time(), latest + _LEAST_SECONDS)
    done = connection.execute(
        "UPDATE conversation SET tip = ?, updated = ? WHERE id = ? AND tip IS ?",
        (tip, moment, conversation, expected),
    )
    return done.rowcount == 1


def update_conversation(connection: sqlite3.Connection, conversation: str, values: Mapping[str, str | None]) -> None:
    """Change columns of a conversation."""
    assignments = ", ".join(f"{column} = ?" for column in values)
    texts = [value and storable(value) for value in values.values()]
    connection.execute(f"UPDATE conversation SET {assignments} WHERE id = ?", (*texts, conversation))


def insert_message(
    connection: sqlite3.Connection,
    conversation: str,
    parent: int | None,
    message: Message,
    status: Status,
    *,
    turn: int | None = None,
    created: float | None = None,
) -> int:
    """Add a message below `parent` and return its id."""
    created = time.time() if created is None else created
    done = connection.execute(
        f"INSERT INTO message (conversation, parent, {_MESSAGE_COLUMNS}, status, turn, created) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (conversation, parent, *_message_values(message), status, turn, created),
    )
    assert done.lastrowid is not None
    add_to_index(connection, done.lastrowid)
    return done.lastrowid


def update_message(connection: sqlite3.Connection, row: int, message: Message, status: Status) -> None:
    """Replace a message that was partial."""
    remove_from_index(connection, row)
    assignments = ", ".join(f"{column} = ?" for column in _MESSAGE_COLUMNS.split(", "))
    connection.execute(
        f"UPDATE message SET {assignments}, status = ? WHERE id = ? AND status = 'partial'",
        (*_message_values(message), status, row),
    )
    add_to_index(connection, row)


def select_messages(connection: sqlite3.Connection, conversation: str) -> list[MessageRow]:
    """Return all messages of a conversation, of every branch, in the order in which they were added."""
    attachments: dict[int, list[Attachment]] = {}
    query = (
        "SELECT message, path, sha256, bytes FROM attachment WHERE message IN "
        "(SELECT id FROM message WHERE conversation = ?) ORDER BY message, position"
    )
    for message, *values in connection.execute(query, (conversation,)):
        attachments.setdefault(message, []).append(Attachment(*values))
    query = (
        f"SELECT id, parent, status, turn, created, {_MESSAGE_COLUMNS} FROM message WHERE conversation = ? ORDER BY id"
    )
    return [
        MessageRow(
            row, parent, _message(values, status), Status(status), turn, created, tuple(attachments.get(row, ()))
        )
        for row, parent, status, turn, created, *values in connection.execute(query, (conversation,))
    ]


def insert_attachments(connection: sqlite3.Connection, message: int, attachments: Iterable[Attachment]) -> None:
    """Add the attachments of a message."""
    connection.executemany(
        "INSERT INTO attachment (message, position, path, sha256, bytes) VALUES (?, ?, ?, ?, ?)",
        [(message, i, storable(each.path), each.sha256, each.bytes) for i, each in enumerate(attachments)],
    )


def turn_row(end: TurnEnd, settings: Mapping[str, object]) -> TurnRow:
    """Return the row of a turn that ended; its id is 0."""
    effort = settings.get("effort")
    sampling = {name: settings[name] for name in ("temperature", "top_p", "top_k") if name in settings}
    cuts = [{"cut": each.cut, "reasoning_tokens": each.reasoning_tokens} for each in end.cuts]
    return TurnRow(
        id=0,
        effort=None if effort is None else str(effort),
        sampling=json.dumps(sampling),
        seed=end.seed,
        reason=end.reason,
        cuts=json.dumps(cuts),
        prompt_tokens=end.prompt_tokens,
        prefilled_tokens=end.prefilled_tokens,
        reasoning_tokens=end.reasoning_tokens,
        answer_tokens=end.answer_tokens,
        first_token_seconds=end.first_token_seconds,
        total_seconds=end.total_seconds,
        version=gptoss_cli.__version__,
    )


def insert_turn(connection: sqlite3.Connection, conversation: str, turn: TurnRow) -> int:
    """Add a turn with a new id, and return that."""
    marks = ", ".join("?" * len(_TURN_COLUMNS))
    done = connection.execute(
        f"INSERT INTO turn (conversation, {', '.join(_TURN_COLUMNS)}) VALUES (?, {marks})",
        (conversation, *(getattr(turn, name) for name in _TURN_COLUMNS)),
    )
    assert done.lastrowid is not None
    return done.lastrowid


def select_turns(connection: sqlite3.Connection, conversation: str) -> list[TurnRow]:
    """Return the turns of a conversation in the order in which they ended."""
    query = f"SELECT id, {', '.join(_TURN_COLUMNS)} FROM turn WHERE conversation = ? ORDER BY id"
    names = ("id", *_TURN_COLUMNS)
    return [TurnRow(**dict(zip(names, row, strict=True))) for row in connection.execute(query, (conversation,))]


def copy_messages(
    connection: sqlite3.Connection, messages: Sequence[MessageRow], turns: Sequence[TurnRow], target: str
) -> dict[int, int]:
    """Add messages and their turns to the conversation `target`; return the new id of each message.

    A parent must stand before its children; one that is not among the messages makes a root.
    """
    needed = {each.turn for each in messages}
    new_turns = {turn.id: insert_turn(connection, target, turn) for turn in turns if turn.id in needed}
    new_ids: dict[int, int] = {}
    for each in messages:
        new_ids[each.id] = insert_message(
            connection,
            target,
            None if each.parent is None else new_ids.get(each.parent),
            each.message,
            each.status,
            turn=None if each.turn is None else new_turns.get(each.turn),
            created=each.created,
        )
        insert_attachments(connection, new_ids[each.id], each.attachments)
    return new_ids


def _message_values(message: Message) -> list[str | None]:
    values = (message.role, message.channel, message.recipient, message.content_type, message.name, message.text)
    return [None if value is None else storable(value) for value in values]


def _message(values: Sequence[str], status: str) -> Message:
    role, channel, recipient, content_type, name, text = values
    return Message(Role(role), text, channel, recipient, content_type, name, status == Status.COMPLETE)
