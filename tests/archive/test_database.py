"""The archive's file: private, and whatever state it is in, the chat goes on."""

import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gptoss_cli.archive.archive import Archive
from gptoss_cli.archive.database import Database
from gptoss_cli.archive.saving import ArchiveRecorder
from gptoss_cli.archive.schema import MIGRATIONS
from gptoss_cli.errors import GptossError, Hint
from tests.archive.conversations import ORIGIN, complain, open_archive, save, snapshot, texts, user

pytestmark = pytest.mark.skipif(os.name != "posix", reason="permissions and signals of POSIX")

_SECOND = "ALTER TABLE conversation ADD COLUMN folder TEXT; UPDATE conversation SET folder = 'unknown'"
# The beginning of every program that runs in a process of its own.
_PROGRAM = """
import resource, sys
from pathlib import Path
from gptoss_cli.archive.archive import Archive
from gptoss_cli.archive.saving import ArchiveRecorder
from tests.archive.conversations import *
path = Path(sys.argv[1])
notices = []
archive = Archive(path, notice=notices.append)
recorder = ArchiveRecorder(archive, ORIGIN, notice=notices.append)
"""


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _run(code: str, path: Path, *, before: tuple[str, ...] = ()) -> str:
    program = _PROGRAM + textwrap.dedent(code)
    repository = Path(__file__).parents[2]
    done = subprocess.run(
        [*before, sys.executable, "-c", program, str(path)], capture_output=True, text=True, cwd=repository
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _mounted(options: str, folder: Path) -> tuple[str, ...]:
    """Return the command that runs a program with its own file system at `folder`, or skip the test."""
    command = f'mount {options} {folder} && exec "$@"'
    prefix = ("unshare", "-rm", "sh", "-c", command, "sh")
    if sys.platform != "linux" or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    return prefix


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_files_are_for_the_owner_alone_whatever_the_umask(mask: int, tmp_path: Path) -> None:
    path = tmp_path / "share" / "gptoss" / "conversations.db"
    with _umask(mask):
        archive = Archive(path, notice=complain)
        save(archive, "a", "b")
        archive.backup(path.with_name("backup.db"))
        assert {each.name for each in path.parent.iterdir()} == {
            "conversations.db",
            "conversations.db-wal",
            "conversations.db-shm",
            "backup.db",
        }
    assert {_mode(each) for each in path.parent.iterdir()} == {0o600}
    assert _mode(path.parent) == _mode(path.parent.parent) == 0o700


def test_permissions_of_an_existing_file_are_taken_away(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    save(archive, "a", "b")
    archive.close()
    archive.database.path.chmod(0o666)
    archive.database.path.parent.chmod(0o777)
    open_archive(tmp_path).summaries()
    assert _mode(archive.database.path) == 0o600
    assert _mode(archive.database.path.parent) == 0o755


def test_connection_is_durable_and_distrusts_the_file(tmp_path: Path) -> None:
    with open_archive(tmp_path).database.reading() as connection:
        settings = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in (
                "journal_mode",
                "synchronous",
                "foreign_keys",
                "secure_delete",
                "trusted_schema",
                "user_version",
            )
        ]
    assert settings == ["wal", 2, 1, 1, 0, len(MIGRATIONS)]


def test_nothing_is_created_before_it_is_needed(tmp_path: Path) -> None:
    open_archive(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def _garbage(path: Path) -> None:
    path.write_bytes(b"not a database, and longer than its header of a hundred bytes. " * 50)


def _half(path: Path) -> None:
    sound = Archive(path, notice=complain)
    save(sound, "a", "b")
    sound.close()
    data = path.read_bytes()
    path.write_bytes(data[:100] + b"\xa5" * (len(data) - 100))


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE conversation (mine)")
    connection.close()


@pytest.mark.parametrize("spoil", [_garbage, _half, _foreign])
def test_damaged_database_is_set_aside_and_the_chat_goes_on(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "conversations.db"
    spoil(path)
    before = path.read_bytes()
    notices: list[str] = []
    archive = Archive(path, notice=notices.append)
    save(archive, "a", "b")
    (aside,) = tmp_path.glob("conversations.db.corrupt-*")
    assert aside.read_bytes() == before
    assert notices == [f"conversations.db is damaged. It was moved to {aside.name}, and a new one was begun."]
    assert len(archive.summaries()) == 1
    assert archive.check() == []


def test_damage_that_is_found_later_is_named_and_not_fatal(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    conversation = save(archive, *["word " * 2000] * 20)
    archive.close()
    data = bytearray(archive.database.path.read_bytes())
    # The first pages hold the schema, without which the database cannot be opened.
    data[len(data) // 2 :] = b"\xa5" * (len(data) - len(data) // 2)
    archive.database.path.write_bytes(data)
    notices: list[str] = []
    archive = Archive(archive.database.path, notice=notices.append)
    with pytest.raises(GptossError, match=r"^conversations\.db is damaged: "):
        archive.load(conversation)
    assert archive.check() != []
    assert notices == []


def test_empty_file_becomes_a_database(tmp_path: Path) -> None:
    path = tmp_path / "conversations.db"
    path.touch()
    archive = Archive(path, notice=complain)
    save(archive, "a", "b")
    assert archive.check() == []


def test_older_database_is_copied_and_migrated(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    conversation = save(archive, "a", "b")
    archive.close()
    path = archive.database.path
    newer = Database(path, notice=complain, migrations=(*MIGRATIONS, _SECOND))
    with _umask(0o000), newer.reading() as connection:
        assert connection.execute("SELECT id, folder FROM conversation").fetchall() == [(conversation, "unknown")]
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    copy = path.with_name("conversations.db.v1")
    assert _mode(copy) == 0o600
    assert texts(Archive(copy, notice=complain).load(conversation).current) == ["a", "b"]


def test_failed_migration_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    conversation = save(archive, "a", "b")
    archive.close()
    newer = Database(
        archive.database.path, notice=complain, migrations=(*MIGRATIONS, f"{_SECOND}; INSERT INTO absent VALUES (1)")
    )
    with pytest.raises(GptossError, match="no such table: absent"), newer.reading():
        pass
    assert texts(open_archive(tmp_path).load(conversation).current) == ["a", "b"]


def test_newer_database_is_read_but_not_written(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    conversation = save(archive, "a", "b")
    archive.close()
    path = archive.database.path
    newer = Database(path, notice=complain, migrations=(*MIGRATIONS, _SECOND))
    with newer.reading():
        pass
    newer.close()
    before = path.read_bytes()
    notices: list[str] = []
    archive = Archive(path, notice=notices.append)
    recorder = ArchiveRecorder(archive, ORIGIN, notice=notices.append, resumed=archive.load(conversation))
    for text in "cd":
        recorder.record(snapshot(user("a"), user(text)))
    assert notices == [
        "This chat is not saved: conversations.db was written by a newer version of gptoss (format 2; this version "
        "writes 1) and is read-only here."
    ]
    assert texts(archive.load(conversation).current) == ["a", "b"]
    assert archive.check() == []
    archive.close()
    assert path.read_bytes() == before


def test_locked_database_is_waited_for(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    save(archive, "a", "b")
    other = sqlite3.connect(archive.database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    begin = time.monotonic()
    locked = pytest.raises(GptossError, match="is locked by another program")
    with locked as raised, archive.database.transaction(wait_seconds=0.3):
        pass
    assert raised.value.hints == (Hint.RETRY_LATER,)
    assert 0.3 <= time.monotonic() - begin < 3
    other.execute("ROLLBACK")
    save(archive, "c", "d")


@pytest.mark.slow
def test_database_that_is_locked_for_ten_seconds_costs_each_save_five(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    notices: list[str] = []
    recorder = ArchiveRecorder(archive, ORIGIN, notice=notices.append)
    recorder.record(snapshot(user("a")))
    other = sqlite3.connect(archive.database.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    begin = time.monotonic()
    recorder.record(snapshot(user("a"), user("b")))
    assert 4.5 < time.monotonic() - begin < 8
    assert len(notices) == 1
    time.sleep(5)
    other.execute("ROLLBACK")
    recorder.record(snapshot(user("a"), user("b"), user("c")))
    assert recorder.conversation is not None
    assert texts(archive.load(recorder.conversation).current) == ["a", "b", "c"]


def test_full_disk_gives_one_notice_and_what_is_missing_is_saved_when_there_is_space(tmp_path: Path) -> None:
    printed = _run(
        """
        recorder.record(snapshot(user("a")))
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, unlimited[1]))
        long = [user(f"{i} " + "x" * 50_000) for i in range(10)]
        for i in range(10):
            recorder.record(snapshot(user("a"), *long[: i + 1]))
        print(notices)
        assert archive.load(recorder.conversation).current[0].text == "a"
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        recorder.record(snapshot(user("a"), *long, user("b")))
        assert len(archive.load(recorder.conversation).current) == 12
        assert archive.check() == []
        """,
        tmp_path / "conversations.db",
    )
    assert printed == "['This chat is not saved: conversations.db cannot grow: the disk is full.']\n"


def test_full_file_system_gives_one_notice(tmp_path: Path) -> None:
    printed = _run(
        """
        recorder.record(snapshot(user("a")))
        long = [user(f"{i} " + "x" * 50_000) for i in range(40)]
        for i in range(40):
            recorder.record(snapshot(user("a"), *long[: i + 1]))
        print(notices)
        kept = archive.load(recorder.conversation).current
        assert kept == (user("a"), *long)[: len(kept)] and len(kept) > 1
        assert archive.check() == []
        """,
        tmp_path / "conversations.db",
        before=_mounted("-t tmpfs -o size=1m tmpfs", tmp_path),
    )
    assert printed == "['This chat is not saved: conversations.db cannot grow: the disk is full.']\n"


def test_no_space_for_a_database_at_all_gives_one_notice(tmp_path: Path) -> None:
    printed = _run(
        """
        path.with_name("other").write_bytes(bytes(4096 * 8))
        recorder.record(snapshot(user("a")))
        recorder.record(snapshot(user("a"), user("b")))
        print(len(notices), recorder.conversation, notices[0])
        """,
        tmp_path / "conversations.db",
        before=_mounted("-t tmpfs -o size=36k tmpfs", tmp_path),
    )
    assert printed.startswith("1 None This chat is not saved: conversations.db")


@pytest.mark.parametrize("log", ["checkpointed", "left"])
def test_database_on_a_read_only_file_system_can_be_read(log: str, tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    save(archive, "a", "b")
    if log == "checkpointed":
        archive.close()
    folder = archive.database.path.parent
    printed = _run(
        """
        (summary,) = archive.summaries()
        stored = archive.load(summary.row.id)
        recorder = ArchiveRecorder(archive, ORIGIN, notice=notices.append, resumed=stored)
        recorder.record(snapshot(user("c")))
        recorder.record(snapshot(user("d")))
        print(texts(stored.current), notices == [f"This chat is not saved: {path} is read-only."])
        """,
        archive.database.path,
        before=_mounted(f"--bind -o ro {folder}", folder),
    )
    assert printed == "['a', 'b'] True\n"


def test_folder_that_cannot_be_created_gives_one_notice(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    notices: list[str] = []
    archive = Archive(tmp_path / "file" / "conversations.db", notice=notices.append)
    recorder = ArchiveRecorder(archive, ORIGIN, notice=notices.append)
    for text in "ab":
        recorder.record(snapshot(user(text)))
    (notice,) = notices
    assert notice.startswith("This chat is not saved: ")
    assert recorder.conversation is None


def test_programs_that_create_the_database_together_all_save(tmp_path: Path) -> None:
    program = _PROGRAM + "recorder.record(snapshot(user('a')))\nassert not notices, notices"
    path = tmp_path / "new" / "conversations.db"
    repository = Path(__file__).parents[2]
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=repository, stderr=subprocess.PIPE)
        for _ in range(6)
    ]
    problems = [process.communicate()[1] for process in running]
    assert problems == [b""] * 6
    archive = Archive(path, notice=complain)
    assert len(archive.summaries()) == 6
    assert archive.check() == []
