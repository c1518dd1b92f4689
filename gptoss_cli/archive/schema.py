"""Tables and migrations of the archive."""

import sqlite3
from collections.abc import Sequence
from typing import Final

# Tables with checked types came with SQLite 3.37; RHEL 9 has 3.34.
_STRICT = "STRICT" if sqlite3.sqlite_version_info >= (3, 37) else ""

_VERSION_1: Final = f"""
CREATE TABLE conversation (
  id TEXT PRIMARY KEY,
  title TEXT, titled_by TEXT,
  model TEXT NOT NULL, identity TEXT NOT NULL,
  instructions TEXT, date TEXT NOT NULL,
  settings TEXT NOT NULL,
  created REAL NOT NULL, updated REAL NOT NULL,
  tip INTEGER REFERENCES message(id), forked_from TEXT) {_STRICT};
CREATE TABLE turn (
  id INTEGER PRIMARY KEY, conversation TEXT NOT NULL REFERENCES conversation(id) ON DELETE CASCADE,
  effort TEXT, sampling TEXT, seed INTEGER, reason TEXT, cuts TEXT, prompt_tokens INTEGER, prefilled_tokens INTEGER,
  reasoning_tokens INTEGER, answer_tokens INTEGER, first_token_seconds REAL, total_seconds REAL,
  version TEXT) {_STRICT};
CREATE TABLE message (
  id INTEGER PRIMARY KEY, conversation TEXT NOT NULL REFERENCES conversation(id) ON DELETE CASCADE,
  parent INTEGER REFERENCES message(id),
  role TEXT NOT NULL, channel TEXT, recipient TEXT, content_type TEXT, name TEXT,
  text TEXT NOT NULL, status TEXT NOT NULL,
  turn INTEGER REFERENCES turn(id), created REAL NOT NULL) {_STRICT};
CREATE TABLE attachment (
  message INTEGER NOT NULL REFERENCES message(id) ON DELETE CASCADE, position INTEGER NOT NULL,
  path TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL,
  PRIMARY KEY (message, position)) {_STRICT};
CREATE INDEX message_of ON message(conversation, parent);
CREATE INDEX conversation_updated ON conversation(updated);
-- Without these, removing a message looks for its references in every row.
CREATE INDEX message_parent ON message(parent);
CREATE INDEX message_turn ON message(turn);
CREATE INDEX turn_of ON turn(conversation);
CREATE INDEX conversation_tip ON conversation(tip);
-- The messages that a person reads, which are the content of the full-text index.
CREATE VIEW searchable AS SELECT id, text FROM message
  WHERE role = 'user' OR role = 'assistant' AND (channel = 'final' OR channel IS NULL AND recipient IS NULL);
"""

# Entry i takes a database from version i to version i + 1. Never change an entry that was released.
MIGRATIONS: Final[Sequence[str]] = (_VERSION_1,)


def statements(script: str) -> list[str]:
    """Return the statements of a migration, in which semicolons only end statements."""
    return [statement for statement in script.split(";") if statement.strip()]
