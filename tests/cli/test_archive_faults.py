"""Whatever happens to the database during a chat, the chat goes on, and says once what is not saved."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gptoss_cli import settings
from gptoss_cli.archive.archive import Archive
from gptoss_cli.cli.resuming import archive_path
from tests.archive.conversations import complain, save, texts
from tests.cli.conftest import Run, Script, turn
from tests.cli.terminal_driver import SCRIPTED_PROGRAM, Terminal
from tests.cli.test_chat_commands import begin

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="deletes open files and mounts file systems")

_ANSWERS = ("One.", "Two.", "Three.", "Four.")
_UNSAVED = "This chat is not saved: "
_LOCK = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(10)
"""


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))


def _open() -> Archive:
    return Archive(archive_path(), notice=complain)


def _current(path: Path | None = None) -> list[str]:
    archive = Archive(path or archive_path(), notice=complain)
    assert archive.check() == []
    last = archive.last()
    assert last is not None
    return texts(archive.load(last.id).current)


class _Chat:
    """A chat whose model counts its answers."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self._answers = iter(_ANSWERS)

    def say(self, text: str) -> None:
        """Say something and wait for the answer and the next prompt."""
        self.terminal.type_for(f"{text}\r", next(self._answers))
        self.terminal.wait_for_prompt()

    def leave(self) -> str:
        """End the chat in order, and return everything that was on its screen as one line."""
        self.terminal.type("\x04")
        assert self.terminal.wait() == 0
        return self.terminal.everything.replace("\n", " ")


@contextmanager
def _chatting(script: Script, *arguments: str, before: tuple[str, ...] = ()) -> Iterator[_Chat]:
    command = [str(SCRIPTED_PROGRAM), script(*map(turn, _ANSWERS)), "chat", *arguments]
    with Terminal(command, before=before, columns=160) as terminal:
        terminal.wait_for_prompt()
        yield _Chat(terminal)


def _mounted(options: str, folder: Path) -> tuple[str, ...]:
    """Return the command that starts a program with its own file system at `folder`, or skip the test."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ("unshare", "-rm", "sh", "-c", f'mount {options} {folder} && exec "$@"', "sh")
    try:
        done = subprocess.run([*command, "true"], capture_output=True, text=True)
    except OSError as exc:
        pytest.skip(f"cannot run unshare: {exc}")
    if done.returncode:
        pytest.skip(f"cannot mount a file system in a namespace: {done.stderr.strip()}")
    return command


def _delete_database() -> None:
    for file in archive_path().parent.glob("conversations.db*"):
        file.unlink()


def test_a_database_that_is_deleted_is_written_again_from_the_start() -> None:
    talk = begin(*_ANSWERS)
    talk.say("/save", "a")
    _delete_database()
    shown = talk.say("b", "c")
    talk.chat.close()
    assert shown.count("was deleted or replaced while it was in use. It was opened again.") == 1
    assert _UNSAVED not in shown
    assert _current() == ["a", "One.", "b", "Two.", "c", "Three."]


def test_a_database_that_is_deleted_again_and_again_is_given_up() -> None:
    talk = begin(*_ANSWERS)
    talk.say("/save")
    shown = ""
    for text in "abcd":
        shown += talk.say(text)
        _delete_database()
    talk.chat.close()
    assert talk.said == ["a", "One.", "b", "Two.", "c", "Three.", "d", "Four."]
    assert shown.count(f"{_UNSAVED}conversations.db was deleted again") == 1
    assert not archive_path().exists()


@pytest.mark.parametrize("content", [b"", b"not a database, and longer than its header. " * 50])
def test_a_database_of_garbage_is_moved_aside(content: bytes) -> None:
    archive_path().parent.mkdir(parents=True)
    archive_path().write_bytes(content)
    talk = begin(*_ANSWERS)
    shown = talk.say("/save", "a", "b")
    talk.chat.close()
    assert shown.count("is damaged. It was moved to conversations.db.corrupt-") == (1 if content else 0)
    assert [each.read_bytes() for each in archive_path().parent.glob("*.corrupt-*")] == ([content] if content else [])
    assert _current() == ["a", "One.", "b", "Two."]


def test_a_database_of_a_newer_version_is_read_and_never_written(run: Run) -> None:
    save(archive := _open(), "x", "y")
    with archive.database.writing() as connection:
        connection.execute("PRAGMA user_version = 99")
    archive.close()
    before = archive_path().read_bytes()
    talk = begin(*_ANSWERS)
    shown = talk.say("/save", "/resume x", "a", "b")
    talk.chat.close()
    assert "Continuing “x” (2 messages" in shown
    assert talk.said == ["x", "y", "a", "One.", "b", "Two."]
    assert shown.count(f"{_UNSAVED}conversations.db was written by a newer version of gptoss (format 99;") == 1
    assert archive_path().read_bytes() == before
    assert run("conversations", "list")[1].splitlines()[1].endswith("x")
    status, _, asides = run("conversations", "rm", "--all", "--yes")
    assert (status, "is read-only here" in asides) == (1, True)


def test_a_database_on_a_read_only_file_system_is_read(script: Script) -> None:
    save(archive := _open(), "x", "y")
    archive.close()
    folder = settings.data_folder()
    with _chatting(script, "-c", before=_mounted(f"--bind -o ro {folder}", folder)) as chat:
        chat.say("a")
        chat.say("b")
        shown = chat.leave()
    assert "Continuing “x” (2 messages" in shown
    assert shown.count(f"{_UNSAVED}{archive_path()} is read-only") == 1
    assert _current() == ["x", "y"]


def test_a_full_disk_is_said_once_and_what_is_missing_is_saved_when_there_is_space(
    script: Script, tmp_path: Path
) -> None:
    mounted = _mounted("-t tmpfs -o size=1m tmpfs", settings.data_folder())
    with _chatting(script, before=mounted) as chat:
        chat.say("a")
        # The folder as the chat sees it.
        folder = Path(f"/proc/{chat.terminal.process}/root{settings.data_folder()}")
        filler = folder / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        chat.say("b" * 100)
        chat.say("c")
        chat.terminal.type_for(f"/export {tmp_path / 'all.md'}\r", "The conversation is in")
        filler.unlink()
        chat.say("d")
        for name in ("conversations.db", "conversations.db-wal"):
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        shown = chat.leave()
    assert shown.count(f"{_UNSAVED}conversations.db cannot grow: the disk is full") == 1
    assert "## You\n\nc\n" in (tmp_path / "all.md").read_text("utf-8")
    assert _current(tmp_path / "conversations.db") == ["a", "One.", "b" * 100, "Two.", "c", "Three.", "d", "Four."]


@pytest.mark.slow
def test_a_database_that_is_locked_for_ten_seconds_delays_a_chat_by_five(script: Script) -> None:
    with _chatting(script) as chat:
        chat.say("a")
        locking = subprocess.Popen([sys.executable, "-c", _LOCK, archive_path()], stdout=subprocess.PIPE, text=True)
        assert locking.stdout is not None
        assert locking.stdout.readline() == "locked\n"
        begin = time.monotonic()
        chat.terminal.type("b\r")
        chat.terminal.wait_for("Two.")
        assert 4 < time.monotonic() - begin < 9
        locking.communicate()
        chat.terminal.wait_for_prompt()
        next(chat._answers)
        chat.say("c")
        shown = chat.leave()
    assert shown.count(f"{_UNSAVED}conversations.db is locked by another program") == 1
    assert _current() == ["a", "One.", "b", "Two.", "c", "Three."]
