"""The slash commands of a chat about saved conversations, without a terminal."""

import json
import resource
from pathlib import Path

import pytest

from gptoss_cli import settings
from gptoss_cli.archive.archive import Archive
from gptoss_cli.cli.resuming import archive_path
from gptoss_cli.settings import ReasoningEffort
from tests.archive.conversations import complain, save, texts
from tests.cli.test_chat_commands import begin


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))


def _archive() -> Archive:
    return Archive(archive_path(), notice=complain)


def _current(index: int = 0) -> list[str]:
    return texts(_archive().load(_archive().summaries()[index].row.id).current)


def test_save_keeps_what_was_said_and_what_follows_under_a_title() -> None:
    talk = begin("Blue.", "Red.")
    talk.say("Sky?")
    assert not archive_path().exists()
    assert "Saved as “The sky”. To continue it later: gptoss chat --resume" in talk.say("/save The sky")
    talk.say("Evening?")
    assert _current() == ["Sky?", "Blue.", "Evening?", "Red."]


def test_save_again_renames() -> None:
    talk = begin("Blue.")
    talk.say("/save One", "Sky?", "/save Two")
    assert [each.row.title for each in _archive().summaries()] == ["Two"]
    assert "A title needs a visible character" in talk.say("/save \x1b")


def test_save_before_the_first_message_holds_for_it() -> None:
    talk = begin("Blue.")
    assert talk.say("/save") == "This chat is saved from its first message on.\n"
    talk.say("Sky?")
    assert "Saved as “Sky?”." in talk.say("/save")


def test_conversations_lists_and_searches_them() -> None:
    talk = begin()
    assert talk.say("/conversations") == "There are no saved conversations yet.\n"
    save(_archive(), "Sky?", "It is blue.")
    assert "Sky?" in talk.say("/conversations")
    assert "  > It is »blue«.\n" in talk.say("/conversations blue")
    assert talk.say("/conversations nothing") == "No message has: nothing\n"


def test_resume_continues_another_conversation_as_it_was() -> None:
    name = save(_archive(), "Sky?", "Blue.")
    talk = begin("One.", "Red.")
    shown = talk.say("Hello", f"/resume {name[:6]}")
    assert "Continuing “Sky?” (2 messages, gpt-oss-20b, just now)." in shown
    assert "The conversation was with gpt-oss-20b; scripted answers from now on." in shown
    session = talk.session
    assert (session.conversation.effort, session.conversation.instructions) == (ReasoningEffort.LOW, "Be brief.")
    assert session.settings.temperature == 0.5
    talk.say("Evening?")
    assert talk.said == ["Sky?", "Blue.", "Evening?", "Red."]


def test_a_resumed_conversation_grows_and_new_leaves_it_alone() -> None:
    name = save(_archive(), "Sky?", "Blue.")
    talk = begin("Red.", "Other.")
    talk.say("/save", f"/resume {name}", "Evening?", "/new", "x")
    assert _current(0) == ["x", "Other."]
    assert _current(1) == ["Sky?", "Blue.", "Evening?", "Red."]


def test_fork_leaves_the_original_as_it_is() -> None:
    talk = begin("Blue.", "Red.")
    assert "There is no message to copy yet." in talk.say("/fork")
    talk.say("Sky?")
    assert "This conversation is not saved. To save it: /save" in talk.say("/fork")
    talk.say("/save")
    assert "The original stays as it is: /resume" in talk.say("/fork")
    assert "This chat is a copy already" in talk.say("/fork")
    talk.say("/effort low")
    assert len(_archive().ids()) == 1
    assert "This chat is saved as “Dusk” from its next message on." in talk.say("/save Dusk")
    talk.say("Evening?")
    assert [each.row.title for each in _archive().summaries()] == ["Dusk", "Sky?"]
    assert (_current(0), _current(1)) == (["Sky?", "Blue.", "Evening?", "Red."], ["Sky?", "Blue."])


@pytest.mark.parametrize("command", ["/resume", "/resume nothing", "/export"])
def test_a_command_that_cannot_be_done_changes_nothing(command: str) -> None:
    talk = begin("Blue.")
    assert talk.say(command).startswith("gptoss: ")
    assert talk.said == []


def test_export_writes_a_new_file_even_where_nothing_can_be_saved(tmp_path: Path) -> None:
    settings.data_folder().parent.mkdir(parents=True)
    settings.data_folder().write_text("no folder")
    talk = begin("Blue.", reasoning="Light.")
    assert talk.say("/save").count("This chat is not saved") == 0
    assert talk.say("Sky?").count("This chat is not saved") == 1
    assert "This chat cannot be saved now. To write it to a file: /export FILE" in talk.say("/save")
    file = tmp_path / "a b.md"
    talk.say(f"/export {file}")
    assert file.read_text("utf-8").endswith("## You\n\nSky?\n\n## gpt-oss\n\nBlue.\n")
    assert "exists already. Give another name: /export FILE" in talk.say(f"/export {file}")
    talk.say(f"/export {tmp_path / 'all.json'}")
    (exported,) = json.loads((tmp_path / "all.json").read_text("utf-8"))["conversations"]
    assert [each["text"] for each in exported["messages"]] == ["Sky?", "Light.", "Blue."]


def test_another_model_is_saved_with_the_turns_it_answers() -> None:
    talk = begin("Blue.", others={"demo": begin("Red.").generator})
    talk.say("/save", "Sky?", "/model demo", "Evening?")
    assert _current() == ["Sky?", "Blue.", "Evening?", "Red."]


def test_save_before_the_first_message_names_the_title() -> None:
    talk = begin("Blue.")
    assert "This chat is saved as “Sky colours” from its first message on." in talk.say("/save Sky  colours")
    talk.say("Sky?")
    assert [each.row.title for each in _archive().summaries()] == ["Sky colours"]


def test_an_export_that_fails_leaves_no_file(tmp_path: Path) -> None:
    talk = begin("Blue.")
    talk.say("Sky?")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        shown = talk.say(f"/export {tmp_path / 'a.md'}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot be written: File too large. Give another name" in shown
    assert list(tmp_path.glob("*.md")) == []
