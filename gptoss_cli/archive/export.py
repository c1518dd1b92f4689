"""Conversations as text: Markdown, JSON without loss, training data, and ChatGPT's own format."""

import datetime
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Final

from gptoss_cli.archive.archive import Stored
from gptoss_cli.archive.rows import MessageRow
from gptoss_cli.harmony.events import Message, Role
from gptoss_cli.settings import ExportFormat

VERSION: Final = 1
_FUNCTIONS: Final = "functions."


def export(conversations: Sequence[Stored], form: ExportFormat, *, reasoning: bool = False) -> str:
    """Return conversations as the text of one file. `reasoning` adds it to Markdown and to training data."""
    match form:
        case ExportFormat.MARKDOWN:
            return "\n".join(_markdown(each, reasoning=reasoning) for each in conversations)
        case ExportFormat.JSON:
            document = {"version": VERSION, "conversations": [_conversation(each) for each in conversations]}
            return json.dumps(document, ensure_ascii=False, indent=2) + "\n"
        case ExportFormat.JSON_LINES:
            lines = [{"messages": list(_training(each, reasoning=reasoning))} for each in conversations]
            return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        case ExportFormat.CHATGPT:
            return json.dumps([_chatgpt(each) for each in conversations], ensure_ascii=False, indent=2) + "\n"


def _conversation(stored: Stored) -> dict[str, object]:
    """Return everything that is stored; messages and turns are numbered from 1."""
    row = stored.row
    numbers = {each.id: i for i, each in enumerate(stored.messages, start=1)}
    turns = {each.id: i for i, each in enumerate(stored.turns, start=1)}
    return {
        "id": row.id,
        "title": row.title,
        "titled_by": row.titled_by,
        "model": row.model,
        "identity": row.identity,
        "instructions": row.instructions,
        "date": row.date,
        "settings": row.settings,
        "created": row.created,
        "updated": row.updated,
        "tip": None if row.tip is None else numbers[row.tip],
        "forked_from": row.forked_from,
        "messages": [_message(each, numbers, turns) for each in stored.messages],
        "turns": [
            asdict(each) | {"id": turns[each.id], "sampling": _parsed(each.sampling), "cuts": _parsed(each.cuts)}
            for each in stored.turns
        ],
    }


def _message(row: MessageRow, numbers: dict[int, int], turns: dict[int, int]) -> dict[str, object]:
    message = row.message
    return {
        "id": numbers[row.id],
        "parent": None if row.parent is None else numbers[row.parent],
        "role": message.role,
        "channel": message.channel,
        "recipient": message.recipient,
        "content_type": message.content_type,
        "name": message.name,
        "text": message.text,
        "status": row.status,
        "turn": None if row.turn is None else turns[row.turn],
        "created": row.created,
        "attachments": [asdict(each) for each in row.attachments],
    }


def _parsed(text: str | None) -> object:
    return None if text is None else json.loads(text)


def _markdown(stored: Stored, *, reasoning: bool) -> str:
    """Return the current path. A JSON string is a YAML string too, so the front matter can hold any title."""
    row = stored.row
    created = datetime.datetime.fromtimestamp(row.created, datetime.UTC).isoformat(timespec="seconds")
    front = {"id": row.id, "title": row.title or "", "model": row.model, "created": created}
    if "effort" in row.settings:
        front["effort"] = str(row.settings["effort"])
    lines = ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()), "---", ""]
    if row.instructions:
        lines += ["## Instructions", "", row.instructions, ""]
    speaker = ""
    for message in stored.current:
        hidden = message.is_reasoning and not reasoning
        if hidden:
            continue
        heading = _heading(message)
        if heading != speaker:
            lines += [f"## {heading}", ""]
            speaker = heading
        lines += _markdown_body(message)
    return "\n".join(lines)


def _heading(message: Message) -> str:
    if message.role is Role.USER:
        return "You"
    return f"Tool {message.name}" if message.role is Role.TOOL and message.name else "gpt-oss"


def _markdown_body(message: Message) -> list[str]:
    text = message.text if message.complete else f"{message.text} [interrupted]"
    if message.is_call:
        return [f"Call of `{message.recipient}`:", "", *_fenced(message.text), ""]
    if message.role is Role.TOOL:
        return [*_fenced(message.text), ""]
    if message.is_reasoning:
        return ["<details><summary>Reasoning</summary>", "", text, "", "</details>", ""]
    return [text, ""]


def _fenced(text: str) -> list[str]:
    fence = "```"
    while fence in text:
        fence += "`"
    return [fence, text, fence]


def _training(stored: Stored, *, reasoning: bool) -> Iterator[dict[str, object]]:
    """Yield the messages of the current path as chat templates take them; `thinking` is gpt-oss's name for reasoning.

    Interrupted answers are left out: a model must not learn to stop in the middle of a sentence.
    """
    if stored.row.instructions:
        yield {"role": "system", "content": stored.row.instructions}
    thoughts: list[str] = []
    for message in stored.current:
        if message.role is Role.USER:
            thoughts = []
            yield {"role": "user", "content": message.text}
        elif message.role is Role.TOOL:
            yield {"role": "tool", "name": _function(message.name), "content": message.text}
        elif not message.complete:
            continue
        elif message.is_call:
            call = {"name": _function(message.recipient), "arguments": message.text}
            tool_calls = [{"type": "function", "function": call}]
            yield _assistant("", thoughts if reasoning else []) | {"tool_calls": tool_calls}
            thoughts = []
        elif message.is_reasoning:
            thoughts.append(message.text)
        elif message.is_answer:
            yield _assistant(message.text, thoughts if reasoning else [])
            thoughts = []


def _assistant(content: str, thoughts: Sequence[str]) -> dict[str, object]:
    message: dict[str, object] = {"role": "assistant", "content": content}
    return message | {"thinking": "\n\n".join(thoughts)} if thoughts else message


def _function(recipient: str | None) -> str:
    return (recipient or "").removeprefix(_FUNCTIONS)


def _chatgpt(stored: Stored) -> dict[str, object]:
    """Return a conversation in the format of ChatGPT's `conversations.json`: a tree of nodes below an empty root."""
    row = stored.row
    root = f"{row.id}-root"
    names = {each.id: f"{row.id}-{i}" for i, each in enumerate(stored.messages, start=1)}
    mapping: dict[str, dict[str, object]] = {root: {"id": root, "message": None, "parent": None}}
    children: dict[str, list[str]] = {root: []}
    for each in stored.messages:
        name, parent = names[each.id], root if each.parent is None else names[each.parent]
        children[parent].append(name)
        children[name] = []
        mapping[name] = {"id": name, "message": _chatgpt_message(name, each), "parent": parent}
    return {
        "title": row.title,
        "create_time": row.created,
        "update_time": row.updated,
        "mapping": {name: node | {"children": children[name]} for name, node in mapping.items()},
        "current_node": root if row.tip is None else names[row.tip],
        "conversation_id": row.id,
        "id": row.id,
        "default_model_slug": row.model,
    }


def _chatgpt_message(name: str, row: MessageRow) -> dict[str, object]:
    message = row.message
    content: dict[str, object] = {"content_type": "text", "parts": [message.text]}
    if message.is_reasoning and message.role is Role.ASSISTANT and not message.is_call:
        content = {"content_type": "thoughts", "thoughts": [{"summary": "", "content": message.text}]}
    return {
        "id": name,
        "author": {"role": message.role, "name": message.name, "metadata": {}},
        "create_time": row.created,
        "content": content,
        "status": "finished_successfully" if message.complete else "in_progress",
        "channel": message.channel,
        "recipient": message.recipient or "all",
    }
