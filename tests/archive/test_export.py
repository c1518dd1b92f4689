"""Conversations as Markdown, as training data, and as JSON that comes back whole."""

import json
from pathlib import Path

import pytest

from gptoss_cli.archive.archive import Archive, Stored
from gptoss_cli.archive.export import export
from gptoss_cli.archive.importing import import_conversations
from gptoss_cli.archive.recorder import Attachment, Snapshot
from gptoss_cli.archive.saving import ArchiveRecorder, Origin
from gptoss_cli.harmony.events import Channel, EndReason, Message, Role
from gptoss_cli.settings import ExportFormat
from tests.archive.conversations import answer, complain, open_archive, reasoning, save, snapshot, turn_end, user

_CALL = Message(Role.ASSISTANT, '{"city": "Bern"}', Channel.COMMENTARY, "functions.weather", "<|constrain|>json")
_OUTPUT = Message(Role.TOOL, "sunny", Channel.COMMENTARY, "assistant", None, "functions.weather")
_TURN = (reasoning("A call."), _CALL, _OUTPUT, reasoning("Now I know."), answer("It is sunny."))


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """A conversation with everything: a call, a branch that was left, an interrupted answer, an attachment."""
    archive = open_archive(tmp_path)
    origin = Origin(model="gpt-oss-20b", identity="sha256:1", title='Weather: "today" # 1')
    recorder = ArchiveRecorder(archive, origin, notice=complain)
    attachments = (Attachment("notes.txt", "f" * 64, 5),)
    first = snapshot(user("Weather?"))
    recorder.record(
        Snapshot(
            messages=first.messages,
            instructions=first.instructions,
            date=first.date,
            settings={"effort": "high", "tools": ["weather"]},
            attachments=attachments,
        )
    )
    recorder.finish(snapshot(user("Weather?"), answer("No idea.")), turn_end())
    recorder.record(first)
    recorder.finish(snapshot(user("Weather?"), *_TURN), turn_end())
    recorder.record(snapshot(user("Weather?"), *_TURN, user("And ```tomorrow```?")))
    cut = answer("It wi", complete=False)
    recorder.finish(
        snapshot(user("Weather?"), *_TURN, user("And ```tomorrow```?"), cut), turn_end(EndReason.INTERRUPTED)
    )
    assert recorder.conversation is not None
    return archive.load(recorder.conversation)


def test_markdown_has_a_front_matter_and_a_heading_for_each_speaker(stored: Stored) -> None:
    text = export([stored], ExportFormat.MARKDOWN)
    front, _, body = text.partition("---\n\n")
    assert front.startswith(f'---\nid: "{stored.row.id}"\ntitle: "Weather: \\"today\\" # 1"\nmodel: "gpt-oss-20b"\n')
    assert 'effort: "low"\n' in front
    assert body == (
        "## Instructions\n\nBe brief.\n\n## You\n\nWeather?\n\n## gpt-oss\n\n"
        'Call of `functions.weather`:\n\n```\n{"city": "Bern"}\n```\n\n'
        "## Tool functions.weather\n\n```\nsunny\n```\n\n## gpt-oss\n\nIt is sunny.\n\n"
        "## You\n\nAnd ```tomorrow```?\n\n## gpt-oss\n\nIt wi [interrupted]\n"
    )


def test_markdown_folds_the_reasoning_away(stored: Stored) -> None:
    text = export([stored], ExportFormat.MARKDOWN, reasoning=True)
    assert "## gpt-oss\n\n<details><summary>Reasoning</summary>\n\nA call.\n\n</details>\n\nCall of" in text


def test_fence_is_longer_than_any_in_the_text(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    recorder = ArchiveRecorder(archive, Origin(model="m", identity=""), notice=complain)
    recorder.record(snapshot(user("a"), Message(Role.TOOL, "```` x", "commentary", "assistant", None, "python")))
    assert recorder.conversation is not None
    assert "\n`````\n```` x\n`````\n" in export([archive.load(recorder.conversation)], ExportFormat.MARKDOWN)


def test_training_data_is_one_line_for_each_conversation(stored: Stored) -> None:
    (line, other) = export([stored, stored], ExportFormat.JSON_LINES, reasoning=True).splitlines()
    assert line == other
    call = {"name": "weather", "arguments": '{"city": "Bern"}'}
    assert json.loads(line) == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": "",
                "thinking": "A call.",
                "tool_calls": [{"type": "function", "function": call}],
            },
            {"role": "tool", "name": "weather", "content": "sunny"},
            {"role": "assistant", "content": "It is sunny.", "thinking": "Now I know."},
            {"role": "user", "content": "And ```tomorrow```?"},
        ]
    }
    assert "thinking" not in export([stored], ExportFormat.JSON_LINES)


def _without_ids(text: str) -> object:
    document = json.loads(text)
    for each in document["conversations"]:
        assert len(each.pop("id")) == 26
    return document


def test_json_comes_back_the_same_but_for_ids(stored: Stored, tmp_path: Path) -> None:
    first = export([stored, stored], ExportFormat.JSON)
    archive = open_archive(tmp_path / "other")
    imported = import_conversations(archive, first.encode(), source="x.json", now=0)
    assert (len(imported.conversations), imported.messages, imported.skipped) == (2, 2 * len(stored.messages), {})
    again = export([archive.load(each.id) for each in imported.conversations], ExportFormat.JSON)
    assert _without_ids(again) == _without_ids(first)
    assert archive.check() == []


def test_json_names_its_version_and_every_branch(stored: Stored) -> None:
    document = json.loads(export([stored], ExportFormat.JSON))
    assert document["version"] == 1
    (conversation,) = document["conversations"]
    assert [each["parent"] for each in conversation["messages"]] == [None, 1, 1, 3, 4, 5, 6, 7, 8]
    assert conversation["tip"] == 9
    assert [each["seed"] for each in conversation["turns"]] == [4_000_000_000] * 3
    assert conversation["messages"][0]["attachments"] == [{"path": "notes.txt", "sha256": "f" * 64, "bytes": 5}]
    assert conversation["messages"][-1]["status"] == "interrupted"


def test_chatgpt_format_comes_back_with_its_branches(stored: Stored, tmp_path: Path) -> None:
    text = export([stored], ExportFormat.CHATGPT)
    archive = Archive(tmp_path / "other.db", notice=complain)
    imported = import_conversations(archive, text.encode(), source="conversations.json", now=0)
    (row,) = imported.conversations
    back = archive.load(row.id)
    assert [each.message for each in back.path] == [
        user("Weather?"),
        reasoning("A call."),
        reasoning("Now I know."),
        answer("It is sunny."),
        user("And ```tomorrow```?"),
        answer("It wi", complete=False),
    ]
    assert imported.skipped == {"message of tools": 1, "message to tools": 1}
    assert len(back.tips) == len(stored.tips) == 2
    assert (row.title, row.created, row.updated) == (stored.row.title, stored.row.created, stored.row.updated)


@pytest.mark.parametrize("form", ExportFormat)
def test_nothing_is_exported_from_nothing(form: ExportFormat, tmp_path: Path) -> None:
    assert export([], form) in ("", "[]\n", '{\n  "version": 1,\n  "conversations": []\n}\n')
    archive = open_archive(tmp_path)
    assert export([archive.load(save(archive, "a"))], form) != ""
