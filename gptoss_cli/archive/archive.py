"""The conversations on disk: list, find, load, fork, rename, remove and check them."""

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from gptoss_cli.archive.database import WAIT_SECONDS, Database, Notice
from gptoss_cli.archive.index import check_index, rebuild_index
from gptoss_cli.archive.rows import (
    ID_LENGTH,
    ConversationRow,
    MessageRow,
    TitledBy,
    TurnRow,
    conversation_row,
    copy_messages,
    insert_conversation,
    new_id,
    select_conversation,
    select_messages,
    select_turns,
    storable,
)
from gptoss_cli.archive.titles import title_line
from gptoss_cli.errors import GptossError, Hint, IntegrityError, UsageError
from gptoss_cli.harmony.events import Message, Role
from gptoss_cli.units import counted

_SHORTEST_PREFIX: Final = 4
# Eight characters of the time are one second: what is shown stays unique when the next conversation begins.
_SHORTEST_SHOWN: Final = 8

# The messages of the current path that a person reads, for each conversation of the outer query.
_COUNT: Final = """(
  WITH RECURSIVE path(id, parent) AS (
    SELECT id, parent FROM message WHERE id = c.tip
    UNION ALL SELECT message.id, message.parent FROM message JOIN path ON message.id = path.parent)
  SELECT count(*) FROM path JOIN searchable USING (id))"""

_TREE_CHECKS: Final = (
    ("SELECT count(*) FROM message WHERE parent >= id", "messages stand before the message they follow"),
    (
        "SELECT count(*) FROM message m JOIN message p ON p.id = m.parent WHERE p.conversation <> m.conversation",
        "messages follow one of another conversation",
    ),
    (
        "SELECT count(*) FROM conversation c JOIN message m ON m.id = c.tip WHERE m.conversation <> c.id",
        "conversations end with a message of another one",
    ),
    (
        "SELECT count(*) FROM message m JOIN turn t ON t.id = m.turn WHERE t.conversation <> m.conversation",
        "messages belong to a turn of another conversation",
    ),
)


@dataclass(frozen=True)
class Stored:
    """A conversation with all its messages, of every branch, and its turns, each in the order of their ids.

    `is_fork`: to be continued as a copy of its current path, which is not in the file yet.
    """

    row: ConversationRow
    messages: tuple[MessageRow, ...]
    turns: tuple[TurnRow, ...]
    is_fork: bool = False

    @cached_property
    def path(self) -> tuple[MessageRow, ...]:
        """The current path, from the first message to the tip."""
        return self.path_to(self.row.tip)

    @property
    def current(self) -> tuple[Message, ...]:
        """The messages of the current path as a conversation holds them."""
        return tuple(each.message for each in self.path)

    @cached_property
    def tips(self) -> tuple[int, ...]:
        """The last message of each branch: the current one first, then the newest."""
        parents = {each.parent for each in self.messages}
        leaves = [each.id for each in reversed(self.messages) if each.id not in parents and each.id != self.row.tip]
        return (*(() if self.row.tip is None else (self.row.tip,)), *leaves)

    def path_to(self, tip: int | None) -> tuple[MessageRow, ...]:
        """Return the messages from the first one to `tip`."""
        by_id = {each.id: each for each in self.messages}
        path = []
        while tip is not None:
            path.append(by_id[tip])
            tip = path[-1].parent
        return tuple(reversed(path))

    def tip_after(self, number: int) -> int | None:
        """Return the last message before the user's message `number + 1` of the current path.

        That is the conversation as the user saw it when message `number` (from 1) was answered. Raises UsageError.
        """
        starts = [i for i, each in enumerate(self.path) if each.message.role is Role.USER]
        if not 0 <= number <= len(starts):
            raise UsageError(f"{_named(self.row)} has {counted(len(starts), 'message')} of the user, not {number}")
        end = starts[number] if number < len(starts) else len(self.path)
        return self.path[end - 1].id if end else None


@dataclass(frozen=True, slots=True)
class Summary:
    """A conversation in a list. `messages` counts those of the current path that a person reads."""

    row: ConversationRow
    messages: int


@dataclass(frozen=True, slots=True)
class Removal:
    """Rows that were removed.

    `erased` False: another program kept some of their bytes in the log or the free pages. `copies` are older files
    beside the database, from before a migration or damaged, that may still have them.
    """

    conversations: int
    messages: int
    erased: bool
    copies: tuple[Path, ...]


class Archive:
    """All conversations of one database file. Every method may raise GptossError.

    Use one in one thread at a time. The file is opened, and created, when it is first needed.
    """

    def __init__(self, path: Path, *, notice: Notice) -> None:
        self.database = Database(path, notice=notice)

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def summaries(self, limit: int | None = None) -> list[Summary]:
        """Return conversations, the one updated last first."""
        columns = ", ".join(f"c.{field.name}" for field in fields(ConversationRow))
        query = (
            f"SELECT {columns}, {_COUNT} FROM (SELECT * FROM conversation ORDER BY updated DESC, id DESC LIMIT ?) c "
            "ORDER BY c.updated DESC, c.id DESC"
        )
        with self.database.reading() as connection:
            found = connection.execute(query, (-1 if limit is None else limit,)).fetchall()
        return [Summary(conversation_row(values), count) for *values, count in found]

    def titles(self) -> Sequence[tuple[str, str, str, float]]:
        """Return id, title, model and time of the last change of every conversation, the one updated last first.

        Much faster than `summaries` for thousands of conversations.
        """
        query = "SELECT id, coalesce(title, ''), model, updated FROM conversation ORDER BY updated DESC, id DESC"
        with self.database.reading() as connection:
            return connection.execute(query).fetchall()

    def last(self) -> ConversationRow | None:
        """Return the conversation that was updated last."""
        found = self.summaries(1)
        return found[0].row if found else None

    def find(self, name: str) -> ConversationRow:
        """Return the conversation whose title, id or unique beginning of the id is `name`. Raises UsageError."""
        name = storable(name)
        query = "SELECT id FROM conversation WHERE id = upper(?1) OR title = ?1 ORDER BY updated DESC"
        with self.database.reading() as connection:
            found = [row for (row,) in connection.execute(query, (name,))]
            if not found and len(name) >= _SHORTEST_PREFIX and name.isascii() and name.isalnum():
                query = "SELECT id FROM conversation WHERE substr(id, 1, ?) = upper(?) ORDER BY updated DESC"
                found = [row for (row,) in connection.execute(query, (len(name), name))]
            row = select_conversation(connection, found[0]) if len(found) == 1 else None
        if row is not None:
            return row
        shown = title_line(name)
        if not found:
            raise UsageError(f"There is no conversation with the id or the title “{shown}”", Hint.LIST_CONVERSATIONS)
        several = ", ".join(self.short_id(each) for each in found[:5]) + (", ..." if len(found) > 5 else "")
        raise UsageError(f"“{shown}” is ambiguous: {several}", Hint.LIST_CONVERSATIONS)

    def short_id(self, conversation: str) -> str:
        """Return the shortest beginning of an id, of at least 8 characters, that no other conversation has."""
        query = (
            "SELECT (SELECT max(id) FROM conversation WHERE id < ?1), (SELECT min(id) FROM conversation WHERE id > ?1)"
        )
        with self.database.reading() as connection:
            neighbors = [each for each in connection.execute(query, (conversation,)).fetchone() if each]
        length = _SHORTEST_SHOWN
        while length < ID_LENGTH and any(each.startswith(conversation[:length]) for each in neighbors):
            length += 1
        return conversation[:length]

    def load(self, conversation: str) -> Stored:
        """Return a conversation by its id. Raises UsageError if it is not there."""
        with self.database.reading() as connection:
            row = select_conversation(connection, conversation)
            if row is None:
                raise UsageError(f"conversation {conversation} was removed", Hint.LIST_CONVERSATIONS)
            return load_rows(connection, row)

    def ids(self) -> list[str]:
        """Return the ids of all conversations, the oldest first."""
        with self.database.reading() as connection:
            return [row for (row,) in connection.execute("SELECT id FROM conversation ORDER BY id")]

    def kv_names(self) -> set[str]:
        """Return the names of the KV files of all conversations."""
        with self.database.reading() as connection:
            rows = connection.execute("SELECT settings FROM conversation").fetchall()
        return {name for (settings,) in rows for name in kv_names_of(json.loads(settings))}

    def add(self, conversations: Iterable[Stored]) -> list[ConversationRow]:
        """Add conversations with all their branches under new ids, all or none, and return them."""
        with self.database.transaction() as connection:
            return [_add_rows(connection, each) for each in conversations]

    def rename(self, conversation: str, title: str) -> str:
        """Give a conversation another title, made one clean line, and return that. Raises UsageError."""
        line = title_line(storable(title))
        if not line:
            raise UsageError("A title needs a visible character")
        with self.database.transaction() as connection:
            query = "UPDATE conversation SET title = ?, titled_by = ? WHERE id = ?"
            if not connection.execute(query, (line, TitledBy.USER, conversation)).rowcount:
                raise UsageError(f"conversation {conversation} was removed", Hint.LIST_CONVERSATIONS)
        return line

    def remove(self, conversations: Iterable[str], *, wait_seconds: float = WAIT_SECONDS) -> Removal:
        """Remove conversations so that no byte of their text is left in the database, its log or its index.

        Waits so long for other programs that read the removed rows.
        """
        count = messages = 0
        with self.database.transaction() as connection:
            for each in conversations:
                query = "SELECT count(*) FROM message WHERE conversation = ?"
                messages += connection.execute(query, (each,)).fetchone()[0]
                # Removing the tip would violate its reference before the rows that follow are gone.
                connection.execute("UPDATE conversation SET tip = NULL WHERE id = ?", (each,))
                count += connection.execute("DELETE FROM conversation WHERE id = ?", (each,)).rowcount
            rebuild_index(connection)
        return Removal(count, messages, self._erase(wait_seconds), self.database.copies())

    def backup(self, target: Path) -> None:
        """Write a copy of the database. Raises UsageError if there is such a file."""
        if os.path.lexists(target):
            raise UsageError(f"{target} already exists")
        self.database.backup(target)

    def check(self) -> list[str]:
        """Return what is wrong with the database, one line each; none if it is sound."""
        problems: list[str] = []
        for check in (self._check_rows, self._check_index):
            try:
                check(problems)
            except IntegrityError as exc:
                problems.append(str(exc))
        return problems

    def _check_rows(self, problems: list[str]) -> None:
        with self.database.reading() as connection:
            problems += [line for (line,) in connection.execute("PRAGMA integrity_check") if line != "ok"]
            for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check"):
                problems.append(f"{table} {row} refers to a {parent} that is missing")
            for query, problem in _TREE_CHECKS:
                if count := connection.execute(query).fetchone()[0]:
                    problems.append(f"{count} {problem}")

    def _check_index(self, problems: list[str]) -> None:
        """Check the index, which takes a statement that writes although it changes nothing."""
        if self.database.is_read_only:
            return
        try:
            with self.database.writing() as connection:
                check_index(connection)
        except IntegrityError:
            problems.append("the full-text index does not have the words of the messages")

    def _erase(self, wait_seconds: float) -> bool:
        """Rewrite the file without what was removed and empty the log. Return False if another program prevents it.

        `secure_delete` overwrites rows, but a page that SQLite rebuilt may keep a part of an old row in its gap.
        """
        try:
            with self.database.writing(wait_seconds=wait_seconds) as connection:
                connection.execute("VACUUM")
                busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except GptossError:
            return False
        return not busy


def load_rows(connection: sqlite3.Connection, row: ConversationRow) -> Stored:
    """Return a conversation with its messages and turns."""
    messages, turns = select_messages(connection, row.id), select_turns(connection, row.id)
    return Stored(row, tuple(messages), tuple(turns))


def fork_rows(connection: sqlite3.Connection, stored: Stored, tip: int | None, *, moment: float) -> ConversationRow:
    """Copy the path to `tip` as a new conversation within a transaction.

    The rows are copied, so that removing one of the two removes its text.
    """
    row = replace(stored.row, id=new_id(moment), forked_from=stored.row.id, created=moment, updated=moment, tip=None)
    insert_conversation(connection, row)
    path = stored.path_to(tip)
    ids = copy_messages(connection, path, stored.turns, row.id)
    new_tip = ids[path[-1].id] if path else None
    connection.execute("UPDATE conversation SET tip = ? WHERE id = ?", (new_tip, row.id))
    return replace(row, tip=new_tip)


def _add_rows(connection: sqlite3.Connection, stored: Stored) -> ConversationRow:
    row = replace(stored.row, id=new_id(stored.row.created), tip=None)
    insert_conversation(connection, row)
    ids = copy_messages(connection, stored.messages, stored.turns, row.id)
    tip = None if stored.row.tip is None else ids[stored.row.tip]
    connection.execute("UPDATE conversation SET tip = ? WHERE id = ?", (tip, row.id))
    return replace(row, tip=tip)


def _named(row: ConversationRow) -> str:
    return f"“{row.title}”" if row.title else f"conversation {row.id}"


def kv_names_of(settings: Mapping[str, object]) -> list[str]:
    """Return the names of KV files in a conversation's settings; imported ones may hold anything there."""
    names = settings.get("kv")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
