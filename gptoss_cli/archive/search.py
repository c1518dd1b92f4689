"""Messages by words: from the full-text index, or by a scan for scripts without spaces and for parts of words."""

import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gptoss_cli.archive.archive import Archive
from gptoss_cli.archive.index import has_index
from gptoss_cli.archive.rows import storable
from gptoss_cli.archive.titles import clean
from gptoss_cli.errors import UsageError
from gptoss_cli.harmony.events import Role

# Scripts that put no spaces between words: the index has one token for a whole run of them.
_UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003fffd]"
)
_WORD: Final = re.compile(r"[^\W_]+")
# A hit in one very long line shows so much of it.
_LINE_CHARACTERS: Final = 200
# SQLite takes patterns of 50,000 bytes.
_LIKE_CHARACTERS: Final = 10_000
_LIKE_SIGN: Final = re.compile("[%_~]")

_FIELDS: Final = "m.id, m.conversation, coalesce(c.title, ''), c.tip, m.role, m.channel, m.created, m.text"
_JOIN: Final = "message m JOIN conversation c ON c.id = m.conversation"


@dataclass(frozen=True, slots=True)
class Hit:
    """A message that has all the words.

    `line`, `before` and `after` are the best line and its neighbors, clean and cropped; `spans` are the words in
    `line`, as (start, end), in order; words that touch each other are one span. `line_number` counts from 1.
    `user_message` is the number, from 1, of the user's message that it is or follows. `is_current` False: it is on a
    branch that was left.
    """

    conversation: str
    title: str
    message: int
    role: Role
    channel: str | None
    created: float
    line_number: int
    before: str
    line: str
    after: str
    spans: tuple[tuple[int, int], ...]
    user_message: int
    is_current: bool


def search(
    archive: Archive, words: str, *, limit: int = 20, latest: bool = False, reasoning: bool = False
) -> list[Hit]:
    """Return the messages that have all the words, the last of which may be the beginning of one.

    If there is none, those that have them within other words are returned. The best come first, or the newest with
    `latest`. What a person reads is searched; with `reasoning` everything, those other messages last. Raises
    GptossError.
    """
    terms = storable(words).replace("\0", " ").split()
    if not terms:
        raise UsageError("A search needs a word")
    with archive.database.reading() as connection:
        rows: list[Sequence[object]] = []
        if _is_indexed(terms) and has_index(connection):
            rows = _look_up(connection, terms, limit, latest=latest)
        scan = not rows
        if scan:
            rows = _scan(connection, terms, limit)
        if reasoning and len(rows) < limit:
            rows += _scan(connection, terms, limit - len(rows), readable=False)
        pattern = _pattern(terms, scan=scan)
        return [_hit(connection, row, pattern, _pattern(terms, scan=True)) for row in rows]


def _is_indexed(terms: Sequence[str]) -> bool:
    return all(_WORD.search(_folded(term)[0]) and not _UNSPACED.search(term) for term in terms)


def _look_up(
    connection: sqlite3.Connection, terms: Sequence[str], limit: int, *, latest: bool
) -> list[Sequence[object]]:
    # Quoted, no word of the user is an operator. A sign at the end ("C++") ends the word too.
    quoted = ['"' + term.replace('"', '""') + '"' for term in terms]
    prefix = "*" if terms[-1][-1].isalnum() else ""
    # Chosen before the texts are read: a common word is in thousands of messages.
    chosen = "SELECT rowid AS id, rank AS place FROM search WHERE search MATCH ? ORDER BY rank LIMIT ?"
    if latest:
        chosen = (
            "SELECT message.id, -message.created AS place FROM search JOIN message ON message.id = search.rowid "
            "WHERE search MATCH ? ORDER BY place, message.id DESC LIMIT ?"
        )
    query = f"SELECT {_FIELDS} FROM ({chosen}) hit JOIN {_JOIN} WHERE m.id = hit.id ORDER BY hit.place, m.id DESC"
    return connection.execute(query, (" ".join(quoted) + prefix, limit)).fetchall()


def _scan(
    connection: sqlite3.Connection, terms: Sequence[str], limit: int, *, readable: bool = True
) -> list[Sequence[object]]:
    """Search without the index; case is ignored in ASCII letters only. There is no rank: the newest come first."""
    column = "s.text" if readable else "m.text"
    # LIKE is much faster than instr and lower, but refuses longer patterns, and ends a text at a NUL.
    like = f"{column} LIKE ? ESCAPE '~' OR instr({column}, char(0)) AND instr(lower({column}), lower(?))"
    values = []
    for term in terms:
        values += ["%" + _LIKE_SIGN.sub(r"~\g<0>", term[:_LIKE_CHARACTERS]) + "%", term]
    among = " AND ".join([f"({like})"] * len(terms))
    source = "searchable s JOIN message m ON m.id = s.id" if readable else "message m"
    if not readable:
        among += " AND m.id NOT IN (SELECT id FROM searchable)"
    # Chosen before the texts are read, as above.
    chosen = f"SELECT m.id AS id FROM {source} WHERE {among} ORDER BY m.created DESC, m.id DESC LIMIT ?"
    query = f"SELECT {_FIELDS} FROM ({chosen}) hit JOIN {_JOIN} WHERE m.id = hit.id ORDER BY m.created DESC, m.id DESC"
    return connection.execute(query, (*values, limit)).fetchall()


def _hit(
    connection: sqlite3.Connection, row: Sequence[object], pattern: re.Pattern[str], loose: re.Pattern[str]
) -> Hit:
    message, conversation, title, tip, role, channel, created, text = row
    assert isinstance(message, int)
    assert isinstance(created, float)
    lines = str(text).splitlines() or [""]
    number, found = _best_line(lines, pattern)
    if not found:
        number, found = _best_line(lines, loose)
    line, spans = _cropped(clean(lines[number]), found)
    before = clean(lines[number - 1])[:_LINE_CHARACTERS] if number else ""
    after = clean(lines[number + 1])[:_LINE_CHARACTERS] if number + 1 < len(lines) else ""
    return Hit(
        conversation=str(conversation),
        title=str(title),
        message=message,
        role=Role(str(role)),
        channel=None if channel is None else str(channel),
        created=created,
        line_number=number + 1,
        before=before,
        line=line,
        after=after,
        spans=spans,
        user_message=_user_messages(connection, message),
        is_current=_is_on_path(connection, message, tip),
    )


_ANCESTORS: Final = """WITH RECURSIVE path(id, parent, role) AS (
  SELECT id, parent, role FROM message WHERE id = ?
  UNION ALL SELECT m.id, m.parent, m.role FROM message m JOIN path ON m.id = path.parent)"""


def _user_messages(connection: sqlite3.Connection, message: int) -> int:
    query = f"{_ANCESTORS} SELECT count(*) FROM path WHERE role = 'user'"
    return int(connection.execute(query, (message,)).fetchone()[0])


def _is_on_path(connection: sqlite3.Connection, message: int, tip: object) -> bool:
    query = f"{_ANCESTORS} SELECT 1 FROM path WHERE id = ?"
    return connection.execute(query, (tip, message)).fetchone() is not None


def _pattern(terms: Sequence[str], *, scan: bool) -> re.Pattern[str]:
    """Return what finds the terms in a folded line as the query found them; each has a group of its own."""
    parts = []
    for i, term in enumerate(terms):
        folded = _folded(term)[0]
        if scan:
            parts.append(f"({re.escape(folded)})")
            continue
        words = r"[\W_]+".join(map(re.escape, _WORD.findall(folded)))
        is_prefix = i == len(terms) - 1 and term[-1].isalnum()
        end = r"[^\W_]*" if is_prefix else r"(?![^\W_])"
        parts.append(rf"(?<![^\W_])({words}{end})")
    return re.compile("|".join(parts))


def _best_line(lines: Sequence[str], pattern: re.Pattern[str]) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Return the index of the first line with the most different terms, and where they are in it."""
    best = most = 0
    spans: tuple[tuple[int, int], ...] = ()
    for number, line in enumerate(lines):
        folded, origins = _folded(line)
        matches = [match for match in pattern.finditer(folded) if match.end() > match.start()]
        different = len({match.lastindex for match in matches})
        if different > most:
            best, most = number, different
            spans = _joined((origins[match.start()], origins[match.end() - 1] + 1) for match in matches)
        if most == pattern.groups:
            break
    return best, spans


def _joined(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Join spans that touch or overlap: "aa" has "a" twice, and two letters of a folded "ß" came from one."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return tuple(joined)


def _cropped(line: str, spans: tuple[tuple[int, int], ...]) -> tuple[str, tuple[tuple[int, int], ...]]:
    if len(line) <= _LINE_CHARACTERS:
        return line, spans
    start = max(0, min(spans[0][0] - _LINE_CHARACTERS // 4 if spans else 0, len(line) - _LINE_CHARACTERS))
    end = start + _LINE_CHARACTERS
    inside = [(max(a, start) - start, min(b, end) - start) for a, b in spans if a < end and b > start]
    return line[start:end], tuple(inside)


def _folded(text: str) -> tuple[str, Sequence[int]]:
    """Return `text` without case and accents, and for each of its characters the index of the one it came from."""
    if text.isascii():
        return text.lower(), range(len(text))
    whole = unicodedata.normalize("NFD", text.casefold())
    if len(whole) == len(text) and not any(map(unicodedata.combining, whole)):
        return whole, range(len(text))  # neither step drops a character, so each became one
    folded: list[str] = []
    origins: list[int] = []
    for i, character in enumerate(text):
        for each in _fold(character):
            folded.append(each)
            origins.append(i)
    return "".join(folded), origins


def _fold(character: str) -> Iterator[str]:
    for each in unicodedata.normalize("NFD", character.casefold()):
        if not unicodedata.combining(each):
            yield each
