"""Conversations from files: our own JSON export, and ChatGPT's `conversations.json`."""

import datetime
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final, TypeVar

from gptoss_cli.archive.archive import Archive, Stored
from gptoss_cli.archive.export import VERSION
from gptoss_cli.archive.recorder import Attachment
from gptoss_cli.archive.rows import ConversationRow, MessageRow, Status, TitledBy, TurnRow
from gptoss_cli.archive.titles import title_line
from gptoss_cli.errors import UsageError
from gptoss_cli.harmony.events import Channel, Message, Role

_T = TypeVar("_T")
_Object = Mapping[str, object]
# Times in a file may be anything; datetime ends at the year 9999.
_LATEST: Final = 253_402_300_799.0
# SQLite's integers have 64 bits.
_LARGEST_INTEGER: Final = 1 << 63


@dataclass(frozen=True, slots=True)
class Imported:
    """The new conversations, and how many messages or conversations were skipped, by reason."""

    conversations: tuple[ConversationRow, ...]
    messages: int
    skipped: Mapping[str, int]


class _Malformed(Exception):  # noqa: N818
    """A value is not what its format says."""


def import_conversations(archive: Archive, data: bytes, *, source: str, now: float) -> Imported:
    """Add the conversations of a file under new ids. `source` is its name, for errors; `now` stands for missing times.

    Raises UsageError if it is neither an export of ours nor ChatGPT's, or has a later version.
    """
    skipped: Counter[str] = Counter()
    try:
        stored = _parsed(json.loads(data), skipped, now)
    except _Malformed as exc:
        raise UsageError(f"{source}: {exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{source} is not JSON") from exc
    return Imported(tuple(archive.add(stored)), sum(len(each.messages) for each in stored), dict(+skipped))


def _parsed(document: object, skipped: Counter[str], now: float) -> list[Stored]:
    if isinstance(document, dict) and "conversations" in document and "version" in document:
        if document["version"] != VERSION:
            raise _Malformed(f"version {document['version']} of the format is unknown here")
        return [_stored(each, now) for each in _list(document, "conversations")]
    if isinstance(document, dict) and "mapping" in document:
        document = [document]
    if not isinstance(document, list):
        raise _Malformed("is neither an export of gptoss nor ChatGPT's conversations.json")
    found, malformed = [], None
    for each in document:
        counted: Counter[str] = Counter()
        try:
            found.append(_from_chatgpt(_object(each, "a conversation"), counted, now))
        except _Malformed as exc:
            malformed = exc
            counted = Counter({"conversation with malformed data": 1})
        skipped.update(counted)
    if malformed is not None and not any(each.messages for each in found):
        raise malformed
    skipped["conversation without messages"] += sum(not each.messages for each in found)
    return [each for each in found if each.messages]


def _stored(value: object, now: float) -> Stored:
    """Return a conversation of our own format, all of whose references are checked."""
    given = _object(value, "a conversation")
    messages: list[MessageRow] = []
    turns = [_turn(_object(each, "a turn")) for each in _list(given, "turns")]
    turn_ids = {None, *(turn.id for turn in turns)}
    known: set[int | None] = {None}
    for each in _list(given, "messages"):
        message = _message_row(_object(each, "a message"), now)
        if message.parent not in known or message.id in known:
            raise _Malformed(f"message {message.id} does not follow a message before it")
        if message.turn not in turn_ids:
            raise _Malformed(f"message {message.id} belongs to an unknown turn")
        known.add(message.id)
        messages.append(message)
    tip = _optional(given, "tip", int)
    if tip not in known:
        raise _Malformed("the tip is not one of the messages")
    titled_by = _optional(given, "titled_by", str)
    created = _moment(given.get("created"), now)
    row = ConversationRow(
        id="",
        title=title_line(_optional(given, "title", str) or "") or None,
        titled_by=None if titled_by is None else _member(TitledBy, titled_by),
        model=_required(given, "model", str),
        identity=_required(given, "identity", str),
        instructions=_optional(given, "instructions", str),
        date=_date(_required(given, "date", str)),
        settings=_object(given.get("settings"), "settings"),
        created=created,
        updated=_moment(given.get("updated"), created),
        tip=tip,
        forked_from=_optional(given, "forked_from", str),
    )
    return Stored(row, tuple(messages), tuple(turns))


def _message_row(given: _Object, now: float) -> MessageRow:
    status = _member(Status, _required(given, "status", str))
    message = Message(
        role=_member(Role, _required(given, "role", str)),
        text=_required(given, "text", str),
        channel=_optional(given, "channel", str),
        recipient=_optional(given, "recipient", str),
        content_type=_optional(given, "content_type", str),
        name=_optional(given, "name", str),
        complete=status is Status.COMPLETE,
    )
    attachments = [_object(each, "an attachment") for each in _list(given, "attachments")]
    return MessageRow(
        id=_required(given, "id", int),
        parent=_optional(given, "parent", int),
        message=message,
        status=status,
        turn=_optional(given, "turn", int),
        created=_moment(given.get("created"), now),
        attachments=tuple(
            Attachment(_required(each, "path", str), _required(each, "sha256", str), _required(each, "bytes", int))
            for each in attachments
        ),
    )


def _turn(given: _Object) -> TurnRow:
    values: dict[str, object] = {}
    for field in fields(TurnRow):
        name, value = field.name, given.get(field.name)
        if name in ("sampling", "cuts"):
            values[name] = None if value is None else json.dumps(value)
        elif name.endswith("_seconds"):
            values[name] = None if value is None else _seconds(given, name)
        else:
            values[name] = _optional(given, name, int if name.endswith(("_tokens", "seed", "id")) else str)
    values["id"] = _required(given, "id", int)
    return TurnRow(**values)  # type: ignore[arg-type]


def _seconds(given: _Object, name: str) -> float:
    return float(_required(given, name, int if isinstance(given[name], int) else float))


def _from_chatgpt(given: _Object, skipped: Counter[str], now: float) -> Stored:
    """Return a tree of ChatGPT's. A node that cannot be imported is left out; its children follow its parent."""
    mapping = _object(given.get("mapping"), "the mapping")
    created = _moment(given.get("create_time"), now)
    messages: list[MessageRow] = []
    # The number of the message that a node is, or of the nearest one above it.
    numbers: dict[str, int | None] = {}
    for name in _ordered(mapping):
        node = _object(mapping[name], "a node")
        parent = numbers.get(str(node.get("parent")))
        numbers[name] = parent
        value = node.get("message")
        message = None if value is None else _chatgpt_message(_object(value, "a message"), skipped)
        if message is not None and isinstance(value, dict):
            numbers[name] = len(messages) + 1
            status = Status.COMPLETE if message.complete else Status.INTERRUPTED
            moment = _moment(value.get("create_time"), created)
            messages.append(MessageRow(len(messages) + 1, parent, message, status, None, moment))
    tip = numbers.get(str(given.get("current_node")))
    if tip is None and messages:
        tip = messages[-1].id
    title = title_line(str(given.get("title") or ""))
    row = ConversationRow(
        id="",
        title=title or None,
        titled_by=TitledBy.USER if title else None,
        model=str(given.get("default_model_slug") or "chatgpt"),
        identity="",
        instructions=None,
        date=datetime.datetime.fromtimestamp(created, datetime.UTC).date().isoformat(),
        settings={},
        created=created,
        updated=_moment(given.get("update_time"), created),
        tip=tip,
    )
    return Stored(row, tuple(messages), ())


def _ordered(mapping: _Object) -> list[str]:
    """Return the names of the nodes, parents before children and siblings in the order of the file.

    A node whose parent is missing is a root; one that can be reached from no root is left out.
    """
    children: dict[str | None, list[str]] = {}
    for name, node in mapping.items():
        parent = node.get("parent") if isinstance(node, dict) else None
        children.setdefault(parent if isinstance(parent, str) and parent in mapping else None, []).append(name)
    ordered: list[str] = []
    waiting = list(reversed(children.get(None, [])))
    while waiting:
        ordered.append(waiting.pop())
        waiting += reversed(children.get(ordered[-1], []))
    return ordered


def _chatgpt_message(given: _Object, skipped: Counter[str]) -> Message | None:
    author = _object(given.get("author"), "an author")
    content = _object(given.get("content") or {}, "a content")
    role, recipient = author.get("role"), given.get("recipient") or "all"
    if role not in (Role.USER, Role.ASSISTANT):
        # ChatGPT's own system messages are empty or hidden.
        if role != Role.SYSTEM:
            skipped["message of tools"] += 1
        return None
    if recipient != "all":
        skipped["message to tools"] += 1
        return None
    kind = str(content.get("content_type"))
    text = _chatgpt_text(kind, content, skipped)
    if text is None or not text.strip():
        if text is None:
            skipped[f"message of the type {title_line(kind)}"] += 1
        return None
    if role == Role.USER:
        return Message(Role.USER, text)
    channel = given.get("channel")
    if kind == "thoughts":
        channel = Channel.ANALYSIS
    elif channel not in (Channel.ANALYSIS, Channel.COMMENTARY):
        channel = Channel.FINAL
    return Message(Role.ASSISTANT, text, str(channel), complete=given.get("status") != "in_progress")


def _chatgpt_text(kind: str, content: _Object, skipped: Counter[str]) -> str | None:
    match kind:
        case "text" | "multimodal_text":
            parts = _list(content, "parts")
            skipped["part other than text"] += sum(not isinstance(part, str) for part in parts)
            return "\n".join(part for part in parts if isinstance(part, str))
        case "code":
            return str(content.get("text") or "")
        case "thoughts":
            thoughts = [_object(each, "a thought") for each in _list(content, "thoughts")]
            return "\n\n".join(str(each.get("content") or each.get("summary") or "") for each in thoughts)
        case _:
            return None


def _object(value: object, name: str) -> _Object:
    if not isinstance(value, dict):
        raise _Malformed(f"{name} is not a JSON object")
    return value


def _list(given: _Object, key: str) -> Sequence[object]:
    value = given.get(key, [])
    if not isinstance(value, list):
        raise _Malformed(f"{key} is not a list")
    return value


def _optional(given: _Object, key: str, kind: type[_T]) -> _T | None:
    return None if given.get(key) is None else _required(given, key, kind)


def _required(given: _Object, key: str, kind: type[_T]) -> _T:
    value = given.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _Malformed(f"{key} is missing or of another type")
    if isinstance(value, int) and abs(value) >= _LARGEST_INTEGER:
        raise _Malformed(f"{key} is too large")
    return value


def _member(kind: type[_T], value: str) -> _T:
    try:
        return kind(value)  # type: ignore[call-arg]
    except ValueError as exc:
        raise _Malformed(f"{title_line(value)} is unknown here") from exc


def _moment(value: object, otherwise: float) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LATEST:
        return float(value)
    return otherwise


def _date(text: str) -> str:
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError as exc:
        raise _Malformed("the date is not a date") from exc
