"""Messages are found by any words the user may type."""

import random
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_cli.archive import index
from gptoss_cli.archive.archive import Archive, Stored
from gptoss_cli.archive.rows import MessageRow, Status
from gptoss_cli.archive.saving import ArchiveRecorder
from gptoss_cli.archive.search import Hit, search
from gptoss_cli.errors import UsageError
from gptoss_cli.harmony.events import Message, Role
from tests.archive.conversations import (
    ORIGIN,
    answer,
    complain,
    open_archive,
    reasoning,
    save,
    snapshot,
    turn_end,
    user,
)


def _marked(hit: Hit) -> str:
    line = hit.line
    for start, end in reversed(hit.spans):
        line = f"{line[:start]}[{line[start:end]}]{line[end:]}"
    return line


def _search(archive: Archive, words: str, *, reasoning: bool = False) -> list[str]:
    return [_marked(hit) for hit in search(archive, words, reasoning=reasoning)]


@pytest.mark.parametrize(
    ("text", "words", "line"),
    [
        ("the quick brown fox", "quick fox", "the [quick] brown [fox]"),
        ("the quick brown fox", "bro", "the quick [brown] fox"),
        ("Sorting in RUST", "in sor", "[Sorting] [in] RUST"),
        ("Sorting in RUST", "rust ort", "S[ort]ing in [RUST]"),
        ("Sorting in RUST", "rust sorting", "[Sorting] in [RUST]"),
        ("this AND that", "AND", "this [AND] that"),
        ("this OR that", "OR NOT", None),
        ('say "hello world"', '"hello world"', 'say "[hello] [world]"'),
        ('say "hello', 'hello"', 'say "[hello]'),
        ("a:b and c-d", "a:b", "[a:b] and c-d"),
        ("a:b and c-d", "-d", "a:b and c-[d]"),
        ("C++ is fast, C is faster", "C++", "[C]++ is fast, [C] is faster"),
        ("cobol", "C++", None),
        ("a star * here", "*", "a star [*] here"),
        ("100 % sure", "100 %", "[100] [%] sure"),
        ("snake_case_name", "case", "snake_[case]_name"),
        ("snake_case_name", "snake_case", "[snake_case]_name"),
        ("Crème brûlée", "creme BRULEE", "[Crème] [brûlée]"),
        ("Creme", "crème", "[Creme]"),
        ("naïve Straße", "naive", "[naïve] Straße"),
        ("日本語を勉強する", "勉強", "日本語を[勉強]する"),
        ("漢字が五〇%です", "字が五〇%", "漢[字が五〇%]です"),
        ("漢字です", "漢%で", None),
        ("漢字です", "漢_で", None),
        ("漢~字です", "漢~字", "[漢~字]です"),
        ("我爱北京 Python", "北京 python", "我爱[北京] [Python]"),
        ("한국어를 공부해요", "공부", "한국어를 [공부]해요"),
        ("ภาษาไทยง่าย", "ไทย", "ภาษา[ไทย]ง่าย"),
        ("ភាសាខ្មែរ", "ខ្មែរ", "ភាសា[ខ្មែរ]"),
        ("NEAR(a b)", "NEAR(a", "[NEAR(a] b)"),
        ("日本語を勉強する", "日本 語 勉強", "[日本語]を[勉強]する"),
        ("really??? yes", "?", "really[???] yes"),
        ("Straße", "s aß", "[S]tr[aß]e"),
        ("first\nsecond hit\nthird", "hit", "second [hit]"),
        ("one word\nboth one word and other", "other word", "both one [word] and [other]"),
        ("esc \x1b[31m\u202e here", "here", "esc  [31m  [here]"),
    ],
)
def test_words_are_found_and_marked(text: str, words: str, line: str | None, tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    save(archive, "nothing", "to see")
    save(archive, text, "ok")
    assert _search(archive, words) == ([] if line is None else [line])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.text(min_size=1))
def test_no_words_are_a_syntax_error(words: str, shared: Archive) -> None:
    if words.replace("\0", " ").split():
        search(shared, words, reasoning=True)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40), data=st.data())
def test_any_word_of_a_message_finds_it(text: str, data: st.DataObject, shared: Archive) -> None:
    words = text.replace("\0", " ").split()
    if not words:
        return
    conversation = save(shared, text)
    word = data.draw(st.sampled_from(words))
    assert conversation in {hit.conversation for hit in search(shared, word, limit=1000)}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    archive = open_archive(tmp_path_factory.mktemp("search"))
    save(archive, "question")
    return archive


def test_search_without_a_word_is_refused(tmp_path: Path) -> None:
    for words in ("", " \n", "\0"):
        with pytest.raises(UsageError, match="needs a word"):
            search(open_archive(tmp_path), words)


def test_hit_says_where_it_is(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    conversation = save(archive, "Title of it", "one", "two", "above\nthe needle\n\tbelow\x1b\nmore")
    (hit,) = search(archive, "needle")
    assert (hit.conversation, hit.title) == (conversation, "Title of it")
    assert (hit.role, hit.channel, hit.user_message, hit.is_current) == (Role.ASSISTANT, "final", 2, True)
    assert (hit.line_number, hit.before, hit.line, hit.after) == (2, "above", "the needle", " below ")
    stored = archive.load(conversation)
    recorder = ArchiveRecorder(archive, ORIGIN, notice=complain, resumed=stored)
    recorder.record(snapshot(*stored.current[:2]))
    (hit,) = search(archive, "needle")
    assert not hit.is_current


def test_hit_in_a_very_long_line_is_cut_around_the_word(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    save(archive, "x " * 100_000 + "needle" + " y" * 100_000, "ok")
    (line,) = _search(archive, "needle")
    assert "[needle]" in line
    assert len(line) < 250


def test_reasoning_is_searched_only_if_asked_for(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    recorder = ArchiveRecorder(archive, ORIGIN, notice=complain)
    call = Message(Role.ASSISTANT, "needle call", "commentary", "functions.find")
    output = Message(Role.TOOL, "needle output", "commentary", "assistant", None, "functions.find")
    messages = [user("hello"), reasoning("a Needle thought"), call, output, answer("needle answer")]
    recorder.record(snapshot(messages[0]))
    recorder.finish(snapshot(*messages), turn_end())
    assert _search(archive, "needle") == ["[needle] answer"]
    everything = _search(archive, "needle", reasoning=True)
    assert everything[0] == "[needle] answer"
    assert set(everything[1:]) == {"a [Needle] thought", "[needle] call", "[needle] output"}
    assert len(search(archive, "needle", limit=2, reasoning=True)) == 2


def test_best_hits_come_first_or_the_latest(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    dense = save(archive, "needle needle needle")
    latest = save(archive, "one needle among a great many other words that say nothing")
    assert [hit.conversation for hit in search(archive, "needle")] == [dense, latest]
    assert [hit.conversation for hit in search(archive, "needle", latest=True)] == [latest, dense]


class _WithoutFts5:
    """A connection of an SQLite that was built without FTS5."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.in_transaction = False

    def execute(self, statement: str, parameters: tuple[str, ...] = ()) -> sqlite3.Cursor:
        assert "search" not in statement
        return self._connection.execute(statement.replace("'fts5'", "'absent'"), parameters)


def test_index_is_built_again_after_a_python_without_fts5_wrote_messages(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    save(archive, "indexed")
    with archive.database.writing() as connection:
        without = cast(sqlite3.Connection, _WithoutFts5(connection))
        for _ in range(2):
            index.ensure_index(without)
        assert not index.has_index(without)
        connection.execute(
            "INSERT INTO message SELECT 7, conversation, 1, role, '', '', '', '', 'needle', status, turn, "
            "created FROM message"
        )
        index.add_to_index(without, 7)
        assert connection.execute("SELECT count(*) FROM search WHERE search MATCH 'needle'").fetchone() == (0,)
    archive.close()
    with archive.database.reading() as connection:
        assert connection.execute("SELECT count(*) FROM search WHERE search MATCH 'needle'").fetchone() == (1,)
    assert archive.check() == []


def test_without_an_index_messages_are_scanned(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    save(archive, "A Needle in hay", "ok")
    with archive.database.transaction() as connection:
        connection.execute("DROP TABLE search")
    assert _search(archive, "need HAY") == ["A [Need]le in [hay]"]
    save(archive, "needle too", "ok")
    assert len(_search(archive, "needle")) == 2


def test_view_of_searchable_messages_is_what_events_call_readable(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    recorder = ArchiveRecorder(archive, ORIGIN, notice=complain)
    messages = [
        Message(role, f"{role} {channel} {recipient}", channel, recipient)
        for role in Role
        for channel in (None, "analysis", "commentary", "final", "other")
        for recipient in (None, "python")
    ]
    recorder.record(snapshot(*messages))
    with archive.database.reading() as connection:
        found = {text for (text,) in connection.execute("SELECT text FROM searchable")}
    assert found == {each.text for each in messages if each.role is Role.USER or each.is_answer}


def _ten_thousand(archive: Archive) -> None:
    """Add 10,000 messages. The word of rank n is n times rarer than the first, which is in nearly every message."""
    words = [f"{'bcdfghjklmnprstvw'[i % 17]}{'aeiou'[i % 5]}word{i}" for i in range(20_000)]
    weights = [1 / (i + 1) for i in range(20_000)]
    draw = random.Random(3)
    base = archive.load(save(archive, "seed"))
    conversations = []
    for i in range(500):
        rows = [
            MessageRow(
                k + 1,
                k or None,
                (user if k % 2 == 0 else answer)(
                    " ".join(draw.choices(words, weights, k=150)) + f" unique{i}x{k} 漢字{i}x{k}"
                ),
                Status.COMPLETE,
                None,
                float(i * 20 + k),
            )
            for k in range(20)
        ]
        conversations.append(Stored(replace(base.row, tip=20), tuple(rows), ()))
    archive.add(conversations)


@pytest.mark.slow
def test_ten_thousand_messages_are_searched_correctly(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    _ten_thousand(archive)
    archive.close()
    timings = {}
    for words, count in (
        ("unique77x3", 1),
        ("unique77x", 20),
        ("baword0", 20),
        ("baword0 ceword1 dibword", 0),
        ("baword0 ceword1 di", 20),
        ("b", 20),
        ("漢字77x3", 1),
        ("absent", 0),
    ):
        for name, latest in (("best", False), ("latest", True)):
            # Of this process alone: other tests run beside it.
            begin = time.process_time()
            hits = search(archive, words, latest=latest)
            timings[f"{words} ({name})"] = time.process_time() - begin
            assert len(hits) == count, words
            if latest:
                assert [hit.created for hit in hits] == sorted((hit.created for hit in hits), reverse=True)
    print({name: f"{seconds * 1000:.1f} ms" for name, seconds in timings.items()})
    assert max(timings.values()) < 0.1
    assert archive.check() == []


def test_sqlite_here_has_fts5() -> None:
    """Otherwise the tests above saw the scan only."""
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE VIRTUAL TABLE t USING fts5(a)")
