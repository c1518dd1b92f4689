"""Conversations come in from ChatGPT and from our own export; damaged files change nothing."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_cli.archive.archive import Archive
from gptoss_cli.archive.export import export
from gptoss_cli.archive.importing import Imported, import_conversations
from gptoss_cli.errors import UsageError
from gptoss_cli.settings import ExportFormat
from tests.archive.conversations import answer, complain, open_archive, reasoning, save, texts, user


def _import(archive: Archive, document: object) -> Imported:
    return import_conversations(archive, json.dumps(document).encode(), source="conversations.json", now=50.0)


def _node(parent: str | None, role: str = "", *parts: object, **more: object) -> dict[str, object]:
    """Return a node of ChatGPT's tree; without a role it has no message."""
    message = None
    if role:
        content = more.pop("content", {"content_type": "text", "parts": list(parts)})
        message = {"author": {"role": role}, "content": content, "create_time": None, "recipient": "all"} | more
    return {"id": "unused", "message": message, "parent": parent, "children": []}


def _chatgpt() -> dict[str, object]:
    """Return a conversation with three branches, the second of which is the current one."""
    return {
        "title": "Trees\x1b[2J\nand more",
        "create_time": 1_700_000_000.5,
        "update_time": 1_700_000_100.0,
        "default_model_slug": "gpt-4o",
        "current_node": "a2",
        "mapping": {
            # Children may stand before their parents.
            "a2": _node("q", "assistant", "second"),
            "root": _node(None),
            "sys": _node("root", "system", ""),
            "q": _node("sys", "user", "Name a tree", create_time=1_700_000_001.0),
            "a1": _node("q", "assistant", "first"),
            "tool": _node("q", "tool", "output"),
            "a3": _node("tool", "assistant", "third"),
            "q2": _node("a1", "user", "Another"),
        },
    }


def test_chatgpt_export_with_three_branches_has_the_current_one_as_its_tip(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    imported = _import(archive, [_chatgpt()])
    (row,) = imported.conversations
    stored = archive.load(row.id)
    assert list(stored.current) == [user("Name a tree"), answer("second")]
    branches = {tuple(texts([each.message for each in stored.path_to(tip)])) for tip in stored.tips}
    assert branches == {
        ("Name a tree", "second"),
        ("Name a tree", "first", "Another"),
        ("Name a tree", "third"),
    }
    assert (row.title, row.model, row.identity, row.date) == ("Trees [2J", "gpt-4o", "", "2023-11-14")
    assert (row.created, row.updated) == (1_700_000_000.5, 1_700_000_100.0)
    assert stored.path[0].created == 1_700_000_001.0
    assert imported.skipped["message of tools"] == 1
    assert archive.check() == []


@pytest.mark.parametrize(
    ("content", "text", "skipped"),
    [
        ({"content_type": "text", "parts": ["a", "b"]}, "a\nb", {}),
        ({"content_type": "multimodal_text", "parts": [{"asset": 1}, "a"]}, "a", {"part other than text": 1}),
        ({"content_type": "code", "text": "x = 1"}, "x = 1", {}),
        ({"content_type": "strange\n", "text": "x"}, None, {"message of the type strange": 1}),
        ({"content_type": "text", "parts": []}, None, {}),
        ({"content_type": "text"}, None, {}),
    ],
)
def test_contents_are_read_or_counted(
    content: dict[str, object], text: str | None, skipped: dict[str, int], tmp_path: Path
) -> None:
    archive = open_archive(tmp_path)
    document = {"mapping": {"q": _node(None, "user", "hi"), "a": _node("q", "assistant", content=content)}}
    imported = _import(archive, document)
    (row,) = imported.conversations
    assert texts(archive.load(row.id).current) == ["hi", *([] if text is None else [text])]
    assert imported.skipped == skipped
    assert (row.title, row.created) == (None, 50.0)


def test_thoughts_become_reasoning(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    thoughts = [{"summary": "Short", "content": "Long"}, {"summary": "Only this"}]
    content = {"content_type": "thoughts", "thoughts": thoughts}
    document = {"mapping": {"q": _node(None, "user", "hi"), "t": _node("q", "assistant", content=content)}}
    (row,) = _import(archive, document).conversations
    assert archive.load(row.id).current[1] == reasoning("Long\n\nOnly this")


def test_conversation_without_messages_is_skipped(tmp_path: Path) -> None:
    imported = _import(open_archive(tmp_path), [{"mapping": {}}, {"mapping": {"root": _node(None)}}])
    assert (imported.conversations, imported.skipped) == ((), {"conversation without messages": 2})


def test_a_malformed_conversation_of_chatgpt_is_skipped_and_the_others_are_imported(tmp_path: Path) -> None:
    good, bad = [_chatgpt()], {"mapping": {"q": {"message": {"author": 3}}}}
    archive = open_archive(tmp_path)
    imported = _import(archive, [bad, *good, 5])
    assert len(imported.conversations) == len(good)
    assert imported.skipped["conversation with malformed data"] == 2
    with pytest.raises(UsageError, match="an author is not a JSON object"):
        _import(archive, [bad, {"mapping": {}}])


def test_nodes_in_a_ring_are_left_out(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    mapping = {"a": _node("b", "user", "a"), "b": _node("a", "user", "b"), "c": _node("gone", "user", "c")}
    (row,) = _import(archive, {"mapping": mapping, "current_node": "a"}).conversations
    assert texts(archive.load(row.id).current) == ["c"]


def test_very_long_conversation_is_imported(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    mapping = {str(i): _node(str(i - 1) if i else None, "user", str(i)) for i in range(5000)}
    (row,) = _import(archive, {"mapping": mapping, "current_node": "4999"}).conversations
    assert len(archive.load(row.id).path) == 5000


def _exported(folder: Path) -> dict[str, object]:
    archive = Archive(folder / "exported.db", notice=complain)
    document = json.loads(export([archive.load(save(archive, "a", "b", "c"))], ExportFormat.JSON))
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d.update(version=2), "version 2 of the format is unknown here"),
        (lambda d: d.update(conversations=3), "conversations is not a list"),
        (lambda d: d["conversations"].append(3), "a conversation is not a JSON object"),
        (lambda d: d["conversations"][0].pop("model"), "model is missing or of another type"),
        (lambda d: d["conversations"][0].update(tip=9), "the tip is not one of the messages"),
        (lambda d: d["conversations"][0].update(date="today"), "the date is not a date"),
        (lambda d: d["conversations"][0].update(settings=[]), "settings is not a JSON object"),
        (lambda d: d["conversations"][0].update(titled_by="me"), "me is unknown here"),
        (lambda d: d["conversations"][0]["messages"][0].update(parent=3), "message 1 does not follow a message"),
        (lambda d: d["conversations"][0]["messages"][1].update(id=1), "message 1 does not follow a message"),
        (lambda d: d["conversations"][0]["messages"][1].update(turn=5), "message 2 belongs to an unknown turn"),
        (lambda d: d["conversations"][0]["messages"][1].update(role="king"), "king is unknown here"),
        (lambda d: d["conversations"][0]["messages"][1].update(text=None), "text is missing or of another type"),
        (lambda d: d["conversations"][0]["messages"][1].update(id=True), "id is missing or of another type"),
        (lambda d: d["conversations"][0]["messages"][1].update(id=1 << 63), "id is too large"),
        (lambda d: d["conversations"][0]["turns"][0].update(seed=[]), "seed is missing or of another type"),
        (lambda d: d["conversations"][0]["turns"][0].update(seed=0.5), "seed is missing or of another type"),
        (
            lambda d: d["conversations"][0]["turns"][0].update(total_seconds="x"),
            "total_seconds is missing or of another",
        ),
        (lambda d: d.clear(), "is neither an export of gptoss nor ChatGPT's conversations.json"),
    ],
)
def test_malformed_export_is_refused_whole(
    change: Callable[[dict[str, object]], object], problem: str, tmp_path: Path
) -> None:
    document = _exported(tmp_path)
    archive = open_archive(tmp_path)
    change(document)
    with pytest.raises(UsageError, match=f"^conversations.json: .*{problem}"):
        _import(archive, document)
    assert archive.summaries() == []


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[" * 100_000, b"{", b"nonsense"])
def test_file_that_is_not_json_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^x\.json is not JSON$"):
        import_conversations(open_archive(tmp_path), data, source="x.json", now=0)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def _places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in _places(inner, (*path, key)))]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_either_refused_or_imported_soundly(data: st.DataObject, damaged: tuple[Archive, object]) -> None:
    archive, documents = damaged
    document = copy.deepcopy(data.draw(st.sampled_from([*documents])))  # type: ignore[misc]
    for _ in range(data.draw(st.integers(1, 2))):
        *path, last = data.draw(st.sampled_from(_places(document)[1:] or [("version",)]))
        target = document
        for key in path:
            target = target[key]
        target[last] = data.draw(_JSON)
    try:
        _import(archive, document)
    except UsageError:
        return
    assert archive.check() == []


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Archive, object]:
    folder = tmp_path_factory.mktemp("damaged")
    return open_archive(folder), (_exported(folder), _chatgpt())
