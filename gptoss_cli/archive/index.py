"""The full-text index over the messages that a person reads.

It is maintained here and not by triggers: with `trusted_schema` off, SQLite refuses virtual tables in triggers.
"""

import sqlite3
from typing import Final

# The content is a view: rebuilding and checking the index then see exactly the messages that belong in it.
_CREATE: Final = (
    "CREATE VIRTUAL TABLE search USING fts5("
    "text, content='searchable', content_rowid='id', tokenize='unicode61 remove_diacritics 2')"
)
_REBUILD: Final = "INSERT INTO search(search) VALUES ('rebuild')"
# Its presence means that messages were written by an SQLite without FTS5.
_MARK: Final = "unindexed"


def has_index(connection: sqlite3.Connection) -> bool:
    """Return True if the index is there and this SQLite can use it."""
    return _has_fts5(connection) and _has_table(connection, "search")


def ensure_index(connection: sqlite3.Connection) -> None:
    """Build the index if it is missing or was not maintained; without FTS5, mark it as not maintained.

    A database may be opened by a Python with FTS5 and by one without.
    """
    if _is_in_order(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another program may have done it meanwhile.
        if not _is_in_order(connection):
            _repair(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def add_to_index(connection: sqlite3.Connection, message: int) -> None:
    """Index a message that was added or changed."""
    if has_index(connection):
        connection.execute("INSERT INTO search(rowid, text) SELECT id, text FROM searchable WHERE id = ?", (message,))


def remove_from_index(connection: sqlite3.Connection, message: int) -> None:
    """Take a message out of the index before it changes."""
    if has_index(connection):
        connection.execute(
            "INSERT INTO search(search, rowid, text) SELECT 'delete', id, text FROM searchable WHERE id = ?", (message,)
        )


def rebuild_index(connection: sqlite3.Connection) -> None:
    """Build the whole index again. A word that was removed stays in an index until its segments are merged."""
    if has_index(connection):
        connection.execute(_REBUILD)


def check_index(connection: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError if the index does not have the words of the messages."""
    if has_index(connection):
        connection.execute("INSERT INTO search(search, rank) VALUES ('integrity-check', 1)")


def _is_in_order(connection: sqlite3.Connection) -> bool:
    marked = _has_table(connection, _MARK)
    if _has_fts5(connection):
        return _has_table(connection, "search") and not marked
    return marked


def _repair(connection: sqlite3.Connection) -> None:
    if not _has_fts5(connection):
        connection.execute(f"CREATE TABLE {_MARK} (since REAL)")
        return
    if not _has_table(connection, "search"):
        connection.execute(_CREATE)
    connection.execute(_REBUILD)
    connection.execute(f"DROP TABLE IF EXISTS {_MARK}")


def _has_fts5(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'").fetchone() is not None


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return connection.execute(query, (name,)).fetchone() is not None
