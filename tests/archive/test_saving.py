"""A chat is saved as it goes on, and never ended by a failure to save."""

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from gptoss_cli.archive.archive import Archive
from gptoss_cli.archive.recorder import Attachment, Recorder, Snapshot
from gptoss_cli.archive.rows import Status, TitledBy
from gptoss_cli.archive.saving import PARTIAL_SECONDS, ArchiveRecorder, Origin
from gptoss_cli.harmony.events import (
    AnswerDelta,
    CallDelta,
    Channel,
    EndReason,
    Markup,
    Message,
    MessageEnd,
    PreambleDelta,
    ReasoningDelta,
    Role,
)
from tests.archive.conversations import (
    ORIGIN,
    answer,
    complain,
    open_archive,
    reasoning,
    save,
    snapshot,
    texts,
    turn_end,
    user,
)


class _Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _current(archive: Archive, recorder: ArchiveRecorder) -> list[str]:
    assert recorder.conversation is not None
    return texts(archive.load(recorder.conversation).current)


def test_archive_recorder_is_a_recorder(tmp_path: Path) -> None:
    recorder: Recorder = ArchiveRecorder(open_archive(tmp_path), ORIGIN, notice=complain)
    recorder.record(snapshot())
    assert not (tmp_path / "data").exists(), "an empty chat leaves no file"


def test_user_message_is_saved_before_anything_is_generated(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    recorder = ArchiveRecorder(archive, ORIGIN, notice=complain)
    recorder.record(snapshot(user("Hello")))
    assert _current(open_archive(tmp_path), recorder) == ["Hello"]


def test_turn_is_saved_with_all_that_its_end_knows(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    recorder = ArchiveRecorder(archive, ORIGIN, notice=complain)
    recorder.record(snapshot(user("Hello")))
    recorder.finish(snapshot(user("Hello"), reasoning("Hm."), answer("Hi")), turn_end(EndReason.STOP_TEXT))
    assert recorder.conversation is not None
    stored = archive.load(recorder.conversation)
    (turn,) = stored.turns
    assert [each.turn for each in stored.messages] == [None, turn.id, turn.id]
    assert stored.row.settings == {"effort": "low", "temperature": 0.5}
    assert (stored.row.date, stored.row.instructions) == ("2026-01-02", "Be brief.")
    assert (turn.effort, turn.sampling, turn.seed, turn.reason) == (
        "low",
        '{"temperature": 0.5}',
        4_000_000_000,
        "stop text",
    )
    assert turn.cuts == '[{"cut": "budget", "reasoning_tokens": 7}]'
    assert (turn.prompt_tokens, turn.prefilled_tokens, turn.reasoning_tokens, turn.answer_tokens) == (101, 53, 7, 11)
    assert (turn.first_token_seconds, turn.total_seconds) == (0.25, 1.5)


def test_every_field_of_a_message_is_read_back(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    messages = [
        user("a\0b\r\n\ud7ff\U0001f600"),
        Message(Role.ASSISTANT, "{}", Channel.COMMENTARY, "functions.now", "<|constrain|>json"),
        Message(Role.TOOL, "12:00", Channel.COMMENTARY, "assistant", None, "functions.now"),
        Message(Role.ASSISTANT, "no channel"),
        Message(Role.ASSISTANT, "", "strange", complete=False),
    ]
    recorder = ArchiveRecorder(archive, ORIGIN, notice=complain)
    recorder.record(snapshot(*messages))
    assert recorder.conversation is not None
    assert list(archive.load(recorder.conversation).current) == messages


def test_partial_answer_is_saved_every_two_seconds(tmp_path: Path) -> None:
    archive, clock = open_archive(tmp_path), _Clock()
    recorder = ArchiveRecorder(archive, ORIGIN, notice=complain, clock=clock)
    recorder.record(snapshot(user("Hello")))
    recorder.listen(ReasoningDelta("Hm"))
    clock.now += PARTIAL_SECONDS
    recorder.listen(ReasoningDelta("."))
    assert _current(archive, recorder) == ["Hello", "Hm."]
    recorder.listen(MessageEnd(reasoning("Hm.")))
    recorder.listen(AnswerDelta("One"))
    assert _current(archive, recorder) == ["Hello", "Hm."]
    clock.now += PARTIAL_SECONDS
    recorder.listen(Markup("<|message|>"))
    recorder.listen(AnswerDelta(", two"))
    assert recorder.conversation is not None
    stored = archive.load(recorder.conversation)
    assert [each.status for each in stored.path] == [Status.COMPLETE, Status.COMPLETE, Status.PARTIAL]
    recorder.finish(snapshot(user("Hello"), reasoning("Hm."), answer("One, two, three", complete=False)), turn_end())
    stored = archive.load(recorder.conversation)
    assert [(each.message.text, each.status) for each in stored.messages] == [
        ("Hello", Status.COMPLETE),
        ("Hm.", Status.COMPLETE),
        ("One, two, three", Status.INTERRUPTED),
    ]


def test_partial_messages_of_every_kind_take_their_header_when_they_end(tmp_path: Path) -> None:
    archive, clock = open_archive(tmp_path), _Clock()
    recorder = ArchiveRecorder(archive, ORIGIN, notice=complain, clock=clock)
    recorder.record(snapshot(user("Hello")))
    call = Message(Role.ASSISTANT, "{}", Channel.ANALYSIS, "python")
    preamble = Message(Role.ASSISTANT, "I look.", Channel.COMMENTARY)
    for delta, message in ((PreambleDelta("I look."), preamble), (CallDelta("python", "{}"), call)):
        clock.now += PARTIAL_SECONDS
        recorder.listen(delta)
        recorder.listen(MessageEnd(message))
    recorder.finish(snapshot(user("Hello"), preamble, call), turn_end(EndReason.CALL))
    assert recorder.conversation is not None
    stored = archive.load(recorder.conversation)
    assert [each.message for each in stored.messages] == [user("Hello"), preamble, call]


def test_taking_messages_back_moves_the_tip_and_overwrites_nothing(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    recorder = ArchiveRecorder(archive, ORIGIN, notice=complain)
    for messages in (["a", "b", "c"], ["a"], [], ["x"], ["a", "b", "c"], ["a", "b", "d"]):
        recorder.record(snapshot(*map(user, messages)))
        assert _current(archive, recorder) == messages
    assert recorder.conversation is not None
    stored = archive.load(recorder.conversation)
    paths = [texts([each.message for each in stored.path_to(tip)]) for tip in stored.tips]
    assert paths == [["a", "b", "d"], ["a", "b", "c"], ["x"], ["a", "b", "c"]]


def test_partial_answer_of_a_turn_that_failed_is_kept_beside_the_next_one(tmp_path: Path) -> None:
    archive, clock = open_archive(tmp_path), _Clock()
    recorder = ArchiveRecorder(archive, ORIGIN, notice=complain, clock=clock)
    recorder.record(snapshot(user("a")))
    clock.now += PARTIAL_SECONDS
    recorder.listen(AnswerDelta("One"))
    recorder.record(snapshot(user("a"), answer("Other")))
    recorder.record(snapshot(user("a"), user("b")))
    assert recorder.conversation is not None
    stored = archive.load(recorder.conversation)
    assert texts([each.message for each in stored.messages]) == ["a", "One", "Other", "b"]
    assert texts(stored.current) == ["a", "b"]


def test_title_is_the_first_line_of_the_first_message_or_what_the_user_says(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    save(archive, "\n\x1b]0;evil\x07  Sorting \u202ein\u2028Rust\nmore", "ok")
    save(archive, "Hello", "ok", origin=Origin(model="m", identity="", title="My\ntitle"))
    found = {(each.row.title, each.row.titled_by) for each in archive.summaries()}
    assert found == {("]0;evil Sorting in", TitledBy.FIRST_MESSAGE), ("My", TitledBy.USER)}


def test_resumed_conversation_goes_on_below_its_tip(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    conversation = save(archive, "a", "b")
    recorder = ArchiveRecorder(archive, ORIGIN, notice=complain, resumed=archive.load(conversation))
    recorder.record(snapshot(user("a"), answer("b"), user("c"), settings={"effort": "high"}))
    stored = archive.load(conversation)
    assert recorder.conversation == conversation
    assert len(stored.messages) == 3
    assert texts(stored.current) == ["a", "b", "c"]
    assert stored.row.settings == {"effort": "high"}


def test_second_chat_in_a_conversation_becomes_a_fork_and_both_are_complete(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    conversation = save(archive, "a", "b")
    notices: list[str] = []
    first = ArchiveRecorder(archive, ORIGIN, notice=complain, resumed=archive.load(conversation))
    second = ArchiveRecorder(open_archive(tmp_path), ORIGIN, notice=notices.append, resumed=archive.load(conversation))
    first.record(snapshot(user("a"), answer("b"), user("first")))
    second.record(snapshot(user("a"), answer("b"), user("second")))
    second.finish(snapshot(user("a"), answer("b"), user("second"), answer("2")), turn_end())
    first.finish(snapshot(user("a"), answer("b"), user("first"), answer("1")), turn_end())
    assert notices == ["Another program continues this conversation. This chat is saved as a new one."]
    assert first.conversation == conversation
    assert _current(archive, first) == ["a", "b", "first", "1"]
    assert _current(archive, second) == ["a", "b", "second", "2"]
    assert second.conversation is not None
    forked = archive.load(second.conversation)
    assert forked.row.forked_from == conversation
    assert len(forked.messages) == 4
    assert archive.check() == []


def test_conversation_that_is_removed_during_a_chat_is_not_written_again(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    notices: list[str] = []
    recorder = ArchiveRecorder(archive, ORIGIN, notice=notices.append)
    recorder.record(snapshot(user("secret")))
    assert recorder.conversation is not None
    open_archive(tmp_path).remove([recorder.conversation])
    for _ in range(3):
        recorder.record(snapshot(user("secret"), user("more")))
    assert notices == ["This chat is not saved: the conversation was removed."]
    assert archive.summaries() == []


def test_reasoning_is_left_out_if_the_user_says_so(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    recorder = ArchiveRecorder(archive, ORIGIN, notice=complain, keep_reasoning=False)
    call = Message(Role.ASSISTANT, "{}", Channel.ANALYSIS, "python")
    messages = [user("a"), reasoning("secret"), call, reasoning("secret"), answer("b")]
    recorder.record(snapshot(user("a")))
    recorder.finish(snapshot(*messages), turn_end())
    recorder.record(snapshot(*messages, user("c")))
    assert _current(archive, recorder) == ["a", "{}", "b", "c"]
    assert recorder.conversation is not None
    assert len(archive.load(recorder.conversation).messages) == 4


def test_attachments_are_saved_with_their_message(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    recorder = ArchiveRecorder(archive, ORIGIN, notice=complain)
    attachments = (Attachment("a.txt", "0" * 64, 12), Attachment("b\udcff.txt", "1" * 64, 13))
    given = snapshot(user("a"))
    recorder.record(
        Snapshot(
            messages=given.messages,
            instructions=None,
            date=given.date,
            settings={},
            attachments=attachments,
        )
    )
    recorder.finish(snapshot(user("a"), answer("b")), turn_end())
    assert recorder.conversation is not None
    first, second = archive.load(recorder.conversation).messages
    assert [each.path for each in first.attachments] == ["a.txt", "b\ufffd.txt"]
    assert second.attachments == ()


def test_locked_database_gives_one_notice_and_the_next_turn_saves_everything(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    notices: list[str] = []
    recorder = ArchiveRecorder(archive, ORIGIN, notice=notices.append, wait_seconds=0.01)
    recorder.record(snapshot(user("a")))
    other = sqlite3.connect(archive.database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    recorder.finish(snapshot(user("a"), answer("b")), turn_end())
    recorder.record(snapshot(user("a"), answer("b"), user("c")))
    assert notices == ["This chat is not saved: conversations.db is locked by another program."]
    assert _current(archive, recorder) == ["a"]
    other.execute("ROLLBACK")
    recorder.finish(snapshot(user("a"), answer("b"), user("c"), answer("d")), turn_end())
    assert _current(archive, recorder) == ["a", "b", "c", "d"]
    assert archive.check() == []


def test_locked_database_does_not_hold_up_the_answer(tmp_path: Path) -> None:
    archive, clock = open_archive(tmp_path), _Clock()
    recorder = ArchiveRecorder(archive, ORIGIN, notice=complain, clock=clock)
    recorder.record(snapshot(user("a")))
    other = sqlite3.connect(archive.database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    clock.now += PARTIAL_SECONDS
    recorder.listen(AnswerDelta("One"))
    other.execute("ROLLBACK")
    clock.now += PARTIAL_SECONDS
    recorder.listen(AnswerDelta(", two"))
    assert _current(archive, recorder) == ["a", "One, two"]


def test_database_replaced_during_a_chat_gets_the_chat_beside_what_it_has(tmp_path: Path) -> None:
    notices: list[str] = []
    archive = Archive(tmp_path / "conversations.db", notice=notices.append)
    recorder = ArchiveRecorder(archive, ORIGIN, notice=notices.append)
    recorder.record(snapshot(user("a")))
    old = recorder.conversation
    assert old is not None
    archive.backup(tmp_path / "copy.db")
    recorder.finish(snapshot(user("a"), answer("b")), turn_end())
    (tmp_path / "copy.db").replace(archive.database.path)
    recorder.record(snapshot(user("a"), answer("b"), user("c")))
    assert len(notices) == 1
    assert _current(archive, recorder) == ["a", "b", "c"]
    assert texts(archive.load(old).current) == ["a"], "the log of the old file is not applied to the new one"
    assert archive.check() == []


def test_another_model_is_named_from_its_turn_on(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    conversation = save(archive, "a", "b")
    other = Origin(model="gpt-oss-120b", identity="sha256:2")
    recorder = ArchiveRecorder(archive, other, notice=complain, resumed=archive.load(conversation))
    assert archive.load(conversation).row.model == "gpt-oss-20b"
    recorder.record(snapshot(user("a"), answer("b"), user("c")))
    row = archive.load(conversation).row
    assert (row.model, row.identity) == ("gpt-oss-120b", "sha256:2")


class _Interrupting(Mapping[str, object]):
    """Settings during whose reading, in the middle of a transaction, Ctrl-C is pressed."""

    def __getitem__(self, key: str) -> object:
        raise KeyboardInterrupt

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter(["effort"])


def test_interrupt_during_a_save_leaves_nothing_half_known(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    recorder = ArchiveRecorder(archive, ORIGIN, notice=complain)
    recorder.record(snapshot(user("a")))
    with pytest.raises(KeyboardInterrupt):
        recorder.record(snapshot(user("a"), user("b"), settings=_Interrupting()))
    assert _current(archive, recorder) == ["a"]
    recorder.record(snapshot(user("a"), user("b")))
    assert _current(archive, recorder) == ["a", "b"]
    assert recorder.conversation is not None
    assert len(archive.load(recorder.conversation).messages) == 2


def test_database_deleted_during_a_chat_is_written_again_once(tmp_path: Path) -> None:
    notices: list[str] = []
    archive = Archive(tmp_path / "conversations.db", notice=notices.append)
    recorder = ArchiveRecorder(archive, ORIGIN, notice=notices.append)
    recorder.record(snapshot(user("a")))
    conversation = recorder.conversation
    archive.database.path.unlink()
    recorder.finish(snapshot(user("a"), answer("b")), turn_end())
    assert notices == ["conversations.db was deleted or replaced while it was in use. It was opened again."]
    assert recorder.conversation == conversation
    assert _current(archive, recorder) == ["a", "b"]
    archive.database.path.unlink()
    for text in "cd":
        recorder.record(snapshot(user("a"), answer("b"), user(text)))
    assert notices[1:] == ["This chat is not saved: conversations.db was deleted again."]
    assert not archive.database.path.exists()
