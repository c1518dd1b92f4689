"""Conversations are saved by `chat` and `ask`, and continued as they were."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptoss_cli import settings
from gptoss_cli.archive.archive import Archive
from gptoss_cli.archive.rows import ConversationRow
from gptoss_cli.archive.saving import ArchiveRecorder, Origin
from gptoss_cli.chat.request import ChatRequest, Notify, OpenedModel, Say
from gptoss_cli.cli.resuming import Resumed, archive_path, find_stored, model_name
from gptoss_cli.errors import Hint, NotInstalledError
from gptoss_cli.harmony.events import Channel, EndReason, Message, Role
from gptoss_cli.settings import ReasoningEffort
from tests.archive.conversations import ORIGIN, complain, save, snapshot, texts, user
from tests.cli.conftest import Run, Script, ask_here, turn
from tests.cli.scripted_program import opened_with
from tests.cli.terminal_driver import ForkedTerminal, Terminal
from tests.scripted_generator import ScriptedGenerator

_CTRL_D = "\x04"


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))


def _archive() -> Archive:
    return Archive(archive_path(), notice=complain)


def _rows() -> list[ConversationRow]:
    return [each.row for each in _archive().summaries()] if archive_path().exists() else []


def _chat(script: str, *arguments: str) -> Terminal:
    return ForkedTerminal("chat", *arguments, script=script)


def _talk(script: str, *arguments: str, say: tuple[str, str]) -> str:
    """Say one thing in a chat, wait for its answer, leave, and return the screen."""
    with _chat(script, *arguments) as terminal:
        terminal.wait_for(">")
        terminal.type(f"{say[0]}\r")
        terminal.wait_for(f"{say[1]}\n\n>")
        terminal.type(_CTRL_D)
        assert terminal.wait() == 0
        return terminal.text


def test_a_chat_is_saved_and_c_continues_it_with_the_same_messages(script: Script) -> None:
    _talk(script(turn("Blue.", reasoning="Light.")), "-e", "low", "-s", "Be brief.", say=("Sky?", "Blue."))
    screen = _talk(script(turn("Red.")), "-c", say=("Evening?", "Red."))
    assert "Continuing “Sky?” (2 messages, scripted, just now)." in screen
    (row,) = _rows()
    stored = _archive().load(row.id)
    assert texts(stored.current) == ["Sky?", "Light.", "Blue.", "Evening?", "Red."]
    assert (row.instructions, row.date, row.settings["effort"]) == ("Be brief.", "2025-08-05", "low")


def test_no_save_writes_no_conversation_and_no_input_history(script: Script) -> None:
    screen = _talk(script(turn("Blue.")), "--no-save", say=("Sky?", "Blue."))
    assert "--resume" not in screen
    assert _rows() == []
    assert not (settings.state_folder() / "history").exists()


def test_no_save_continues_a_conversation_and_leaves_it_as_it_was(script: Script) -> None:
    save(_archive(), "Sky?", "Blue.", "Grass?", "Green.")
    before = _rows()
    _talk(script(turn("Red.")), "-c", "--no-save", "--at", "1", "--fork", say=("Evening?", "Red."))
    assert _rows() == before


def test_a_copy_is_saved_with_its_first_message_and_not_before(script: Script) -> None:
    save(_archive(), "Sky?", "Blue.", "Grass?", "Green.")
    before = _rows()
    with _chat(script(turn("Red.")), "-c", "--at", "1") as terminal:
        terminal.wait_for(">")
        terminal.type(_CTRL_D)
        assert terminal.wait() == 0
        assert "Continuing a copy of “Sky?” (2 messages" in terminal.text
    assert _rows() == before
    _talk(script(turn("Red.")), "-c", "--at", "1", say=("Evening?", "Red."))
    copy, original = (_archive().load(each.id) for each in _rows())
    assert texts(copy.current) == ["Sky?", "Blue.", "Evening?", "Red."]
    assert texts(original.current) == ["Sky?", "Blue.", "Grass?", "Green."]


def test_a_model_given_by_a_path_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my model").mkdir()
    monkeypatch.chdir(tmp_path)
    for typed in ("./my model", '"my model"', r"my\ model", "my model"):
        assert model_name(typed) == str(tmp_path / "my model")
    assert [model_name(each) for each in ("20b", "demo", "someone/tuned", "")] == [
        "gpt-oss-20b",
        "demo",
        "someone/tuned",
        "",
    ]


def test_ask_saves_nothing_unless_it_is_asked_to(script: Script) -> None:
    ask_here(script(turn("Blue.")), "Sky?")
    assert _rows() == []
    done = ask_here(script(turn("Blue.")), "--save", "--title", "The sky", "Sky?")
    assert (done.stdout, [row.title for row in _rows()]) == ("Blue.\n", ["The sky"])
    assert "gptoss ask --resume" in done.stderr


def test_ask_c_prints_only_the_new_answer_and_is_saved(script: Script) -> None:
    ask_here(script(turn("Blue.")), "--save", "Sky?")
    done = ask_here(script(turn("Red.")), "-c", "Evening?")
    assert done.stdout == "Red.\n"
    assert "Continuing “Sky?” (2 messages, scripted, just now)." in done.stderr
    assert "tokens so far." in done.stderr
    assert texts(_archive().load(_rows()[0].id).current) == ["Sky?", "Blue.", "Evening?", "Red."]


def test_ask_with_no_save_continues_without_saving(script: Script) -> None:
    ask_here(script(turn("Blue.")), "--save", "Sky?")
    assert ask_here(script(turn("Red.")), "-c", "--no-save", "Evening?").stdout == "Red.\n"
    assert texts(_archive().load(_rows()[0].id).current) == ["Sky?", "Blue."]


def test_settings_decide_about_saving(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.config_folder().mkdir(parents=True)
    settings.config_file().write_text("[history]\nask = true\nreasoning = false\n")
    ask_here(script(turn("Blue.", reasoning="Light.")), "Sky?")
    assert texts(_archive().load(_rows()[0].id).current) == ["Sky?", "Blue."]
    monkeypatch.setenv("GPTOSS_HISTORY_ASK", "false")
    ask_here(script(turn("Red.")), "Evening?")
    assert len(_rows()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('\n[history]\nsave = "no"', "line 3: history.save should be true or false"),
        ("history.save = 1", "line 1: history.save should be true or false"),
        ("history = 1", "line 1: there is no setting history."),
        ("[history]\nsav = true", "line 2: there is no setting history.sav. Did you mean history.save?"),
    ],
)
def test_a_wrong_setting_is_named_with_its_line(text: str, message: str, script: Script) -> None:
    settings.config_folder().mkdir(parents=True)
    settings.config_file().write_text(text)
    assert message in ask_here(script(turn("Blue.")), "x").stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["-c"], 2, "There is no conversation to continue yet"),
        (["--resume", "nothing"], 2, "There is no conversation with the id or the title “nothing”"),
        (["--resume"], 2, "--resume needs an id or a title. Run: gptoss conversations list"),
        (["-c", "--resume", "x"], 2, "--continue and --resume do not go together."),
        (["--title", "x"], 2, "--title needs --save."),
        (["-c", "--efforts", "low"], 2, "--continue and --efforts do not go together."),
    ],
)
def test_what_cannot_be_continued_is_said(arguments: list[str], status: int, message: str, script: Script) -> None:
    done = ask_here(script(turn("Blue.")), "Sky?", *arguments)
    assert done.returncode == status
    assert message in done.stderr


def test_an_ambiguous_beginning_of_an_id_is_refused(script: Script) -> None:
    ids = [save(_archive(), "a", "b"), save(_archive(), "c", "d")]
    done = ask_here(script(turn("Blue.")), "--resume", ids[0][:5], "Sky?")
    assert (done.returncode, "is ambiguous" in done.stderr) == (2, True)


def test_at_continues_a_copy_as_it_was_after_a_message() -> None:
    archive = _archive()
    original = save(archive, "a", "b", "c", "d")
    copy = find_stored(archive, original, at=1)
    assert (texts(copy.current), copy.is_fork, archive.ids()) == (["a", "b"], True, [original])
    recorder = ArchiveRecorder(archive, ORIGIN, notice=complain, resumed=copy)
    recorder.record(snapshot(*copy.current))
    assert archive.ids() == [original]
    recorder.record(snapshot(*copy.current, user("e")))
    saved = archive.load(str(recorder.conversation))
    assert (texts(saved.current), saved.row.forked_from) == (["a", "b", "e"], original)
    assert texts(archive.load(original).current) == ["a", "b", "c", "d"]


def test_options_on_the_command_line_replace_what_the_conversation_has() -> None:
    save(_archive(), "a", "b")
    stored = find_stored(_archive(), None)
    own = Resumed(stored).request(ChatRequest(model="120b", instructions="Other.", effort=ReasoningEffort.HIGH))
    assert (own.model, own.instructions, own.effort) == ("gpt-oss-20b", "Be brief.", ReasoningEffort.LOW)
    assert (own.date, own.settings.temperature) == (snapshot().date, 0.5)
    given = {"model", "effort", "temperature"}
    other = Resumed(stored, given).request(ChatRequest(model="120b", effort=ReasoningEffort.HIGH))
    assert (other.model, other.effort, other.settings.temperature) == ("120b", ReasoningEffort.HIGH, 1.0)


def test_settings_of_an_imported_conversation_may_be_nonsense() -> None:
    recorder = ArchiveRecorder(_archive(), ORIGIN, notice=complain)
    recorder.record(snapshot(user("a"), settings={"effort": 3, "temperature": "hot", "top_k": None, "top_p": -1}))
    request = Resumed(find_stored(_archive(), None)).request(ChatRequest())
    assert (request.effort, request.settings) == (ReasoningEffort.MEDIUM, ChatRequest().settings)


def test_a_missing_model_exits_3_and_names_both_ways_on(run: Run) -> None:
    save(_archive(), "a", "b")

    def nothing(request: ChatRequest, *, progress: Say, notice: Notify) -> OpenedModel:
        raise NotInstalledError("gpt-oss-20b is not downloaded", Hint.DOWNLOAD, subject="20b")

    status, _, asides = run("ask", "-c", "x", open_model=nothing)
    assert status == 3
    assert "Run: gptoss download 20b, or continue with another model: -m MODEL" in asides


def test_another_model_is_said(script: Script) -> None:
    save(_archive(), "a", "b")
    done = ask_here(script(turn("Blue.")), "-c", "-m", "120b", "x")
    assert "The conversation was with gpt-oss-20b; scripted answers from now on." in done.stderr


_CALL: list[str | float] = ["<|channel|>commentary to=functions.look json<|message|>{}<|call|>"]


def test_a_call_that_was_not_run_is_said_and_answered_as_interrupted(script: Script) -> None:
    ask_here(script(_CALL), "--save", "--free-headers", "Look!")
    done = ask_here(script(turn("Nothing.")), "-c", "And?")
    assert "It called functions.look, which cannot be called now. The last call was interrupted" in done.stderr
    _, call, output, question, _ = _archive().load(_rows()[0].id).current
    assert call.recipient == "functions.look"
    expected = Message(Role.TOOL, "interrupted, not run", Channel.COMMENTARY, "assistant", name="functions.look")
    assert (output, question.text) == (expected, "And?")
    again = ask_here(script(turn("Still nothing.")), "-c", "And now?")
    assert "It called functions.look, which cannot be called now.\n" in again.stderr
    assert [each.role for each in _archive().load(_rows()[0].id).current].count(Role.TOOL) == 1


def test_the_working_folder_is_that_of_the_first_turn(
    script: Script, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "first\x1b").mkdir()
    monkeypatch.chdir(folder)
    ask_here(script(turn("Blue.")), "--save", "Sky?")
    monkeypatch.chdir(tmp_path)
    ask_here(script(turn("Red.")), "-c", "Evening?")
    (row,) = _rows()
    assert row.folder == str(folder)
    assert f"{tmp_path / 'first'} \n\nYou\n" in run("conversations", "show", row.id)[1]
    assert json.loads(run("conversations", "list", "--json")[1])["conversations"][0]["folder"] == str(folder)


def test_the_effort_that_the_system_message_names_comes_back_with_effort_none() -> None:
    session = opened_with(ScriptedGenerator([]), ChatRequest(effort=ReasoningEffort.HIGH)).session
    session.recorder = ArchiveRecorder(_archive(), Origin(model="demo", identity=""), notice=complain)
    session.conversation.add_user("Sky?")
    session.set_effort(ReasoningEffort.NONE)
    resumed = Resumed(find_stored(_archive(), None))
    again = resumed.open(lambda request: opened_with(ScriptedGenerator([]), request), resumed.request(ChatRequest()))
    assert again.session.conversation.render() == session.conversation.render()


def test_an_interrupted_answer_is_saved_with_its_end(script: Script) -> None:
    done = ask_here(script(turn("Blue. " * 50)), "--save", "--max-tokens", "12", "Sky?")
    assert done.returncode == 7
    stored = _archive().load(_rows()[0].id)
    assert [(each.status, bool(each.message.text)) for each in stored.path] == [
        ("complete", True),
        ("interrupted", True),
    ]
    assert [each.reason for each in stored.turns] == [EndReason.TOKEN_LIMIT]


def test_a_full_or_unwritable_place_costs_one_notice_and_no_answer(script: Script) -> None:
    settings.data_folder().parent.mkdir(parents=True)
    settings.data_folder().write_text("no folder")
    done = ask_here(script(turn("Blue.")), "--save", "Sky?")
    assert (done.returncode, done.stdout, done.stderr.count("This chat is not saved")) == (0, "Blue.\n", 1)


def test_a_question_is_saved_before_its_answer_begins(script: Script) -> None:
    slow: list[str | float] = ["<|channel|>final<|message|>one", 20.0, " two<|return|>"]
    with _chat(script(slow)) as terminal:
        terminal.wait_for(">")
        terminal.type("Count\r")
        terminal.wait_for("one")
    assert texts(_archive().load(_rows()[0].id).current)[:1] == ["Count"]


def test_files_of_a_message_are_saved_by_their_digest(script: Script, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc")
    ask_here(script(turn("Blue.")), "--save", "-f", str(tmp_path / "a.txt"), "Sky?")
    with _chat(script(turn("Red.")), "-c", "-f", str(tmp_path / "a.txt"), "Evening?") as terminal:
        terminal.wait_for("Red.\n\n>")
    saved = [each.attachments for each in _archive().load(_rows()[0].id).path]
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (record,) = saved[0]
    assert (record.path, record.sha256, record.bytes) == (str(tmp_path / "a.txt"), digest, 3)
    assert saved == [(record,), (), (record,), ()]


def test_two_chats_in_one_conversation_become_two(script: Script) -> None:
    save(_archive(), "a", "b")
    answers = script(turn("One."))
    with _chat(answers, "-c") as first, _chat(answers, "-c") as second:
        first.wait_for(">")
        second.wait_for(">")
        first.type("x\r")
        first.wait_for("One.\n\n>")
        second.type("y\r")
        second.wait_for("Another program continues this conversation")
        second.wait_for("One.\n")
    paths = sorted(texts(_archive().load(row.id).current) for row in _rows())
    assert paths == [["a", "b", "x", "One."], ["a", "b", "y", "One."]]


def test_retry_undo_edit_and_new_overwrite_nothing(script: Script) -> None:
    answers = (turn(word) for word in ("One.", "Two.", "Three.", "Four."))
    with _chat(script(*answers)) as terminal:
        terminal.wait_for(">")
        for typed, shown in (("a", "One."), ("/retry", "Two."), ("/undo", "Taken back: a"), ("b", "Three.")):
            terminal.type_for(f"{typed}\r", shown)
            terminal.wait_for_prompt()
        terminal.type_for("/new\r", "A new conversation.")
        terminal.type_for("c\r", "Four.")
        terminal.wait_for_prompt()
        terminal.type(_CTRL_D)
        assert terminal.wait() == 0
    new, old = (_archive().load(row.id) for row in _rows())
    assert texts(new.current) == ["c", "Four."]
    assert texts(old.current) == ["b", "Three."]
    assert sorted(texts([each.message for each in old.messages])) == ["One.", "Three.", "Two.", "a", "b"]


def test_a_new_chat_imports_no_database_before_its_prompt() -> None:
    program = "import sys; import gptoss_cli.cli.chat; print('sqlite3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert json.loads(done.stdout.lower() or "null") is False
