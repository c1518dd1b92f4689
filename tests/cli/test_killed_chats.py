"""Real chats on the demo that are killed at random moments: nothing that was seen two seconds before is lost."""

import json
import os
import pty
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from gptoss_cli.archive.archive import Archive, Stored
from gptoss_cli.harmony.events import EndReason, Role
from tests.archive.conversations import complain
from tests.cli.conftest import link_demo

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks a program that has loaded torch")

_LOST_SECONDS = 2.0
_PATIENCE_SECONDS = 120.0
# prompt_toolkit writes this when it begins to read a line.
_PROMPT = b"\x1b[?2004h"
_LINES = (
    "My name is Ada. Please remember it.",
    "What is my name?",
    "How do I limit the length of an answer?",
    "Tell me about sorting.",
    "/retry",
    "/effort low",
)


class _Server:
    """See chat_server."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.cli.chat_server"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lock = Lock()

    def start(self, **request: object) -> int:
        """Start a chat and return its process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


@dataclass
class _Turn:
    """An observed turn: its question, and pieces of text with the times when they came."""

    question: str
    pieces: list[tuple[float, str]] = field(default_factory=list)
    reason: str | None = None

    def text(self, until: float = float("inf")) -> str:
        return "".join(text for moment, text in self.pieces if moment <= until)


@dataclass
class _Chat:
    """A chat that types `lines`, each as soon as there is a prompt for it.

    `kill` is the number of the line after which it is killed, and how many seconds after that.
    """

    server: _Server
    home: Path
    lines: list[str]
    arguments: list[str]
    token_seconds: float = 0.0
    kill: tuple[int, float] | None = None
    killed: float | None = None
    turns: list[_Turn] = field(default_factory=list)
    status: int | None = None
    screen: bytes = b""

    def run(self) -> None:
        self._log = self.home / f"log-{time.monotonic_ns()}"
        self._log.touch()
        master, slave = pty.openpty()
        try:
            self._process = self.server.start(
                terminal=os.ttyname(slave),
                arguments=["chat", *self.arguments],
                home=str(self.home),
                token_seconds=self.token_seconds,
                log=str(self._log),
            )
            self._talk(master)
        finally:
            os.close(master)
            os.close(slave)

    def _talk(self, terminal: int) -> None:
        began = moment = time.monotonic()
        typed = read = 0
        while self.killed is None and self.status is None:
            if self.kill is not None and typed >= self.kill[0] and time.monotonic() >= moment + self.kill[1]:
                self.killed = time.monotonic()
                os.kill(self._process, signal.SIGKILL)
                time.sleep(0.02)
            elif typed < len(self.lines) and self.screen.count(_PROMPT) > typed:
                os.write(terminal, f"{self.lines[typed]}\r".encode())
                typed += 1
                moment = time.monotonic()
            assert time.monotonic() < began + _PATIENCE_SECONDS, (self.turns, self.screen[-2000:])
            if select.select([terminal], [], [], 0.005)[0]:
                new = os.read(terminal, 1 << 16)
                self.screen += new
                if b"\x1b[6n" in new:  # the program asks where the cursor is
                    os.write(terminal, b"\x1b[1;1R")
            read = self._read_log(read)

    def _read_log(self, start: int) -> int:
        data = self._log.read_bytes()[start:]
        end = data.rfind(b"\n") + 1
        for line in data[:end].splitlines():
            self._take(json.loads(line))
        return start + end

    def _take(self, logged: dict[str, Any]) -> None:
        match logged["event"]:
            case "turn":
                self.turns.append(_Turn(logged["question"]))
            case "text":
                self.turns[-1].pieces.append((logged["time"], logged["text"]))
            case "end":
                self.turns[-1].reason = logged["reason"]
            case "exit":
                self.status = logged["status"]
            case _:
                raise AssertionError(logged["text"])


def _answered(stored: Stored, tip: int | None) -> list[tuple[str, str]]:
    """Return each question on the path to `tip` with the text of all messages that follow it."""
    found: list[tuple[str, str]] = []
    for row in stored.path_to(tip):
        if row.message.role is Role.USER:
            found.append((row.message.text, ""))
        else:
            found[-1] = (found[-1][0], found[-1][1] + row.message.text)
    return found


def _assert_saved(chat: _Chat) -> Stored | None:
    """Check what is on the disk after a chat was killed, and return its conversation."""
    path = chat.home / "data" / "conversations.db"
    if not path.exists():
        assert chat.turns == []
        return None
    archive = Archive(path, notice=complain)
    assert archive.check() == []
    last = archive.last()
    stored = archive.load(last.id) if last else None
    archive.close()
    if stored is None:
        assert chat.turns == []
        return None
    said = [pair for tip in stored.tips for pair in _answered(stored, tip)]
    for turn in chat.turns:
        seen = turn.text() if turn.reason or chat.killed is None else turn.text(chat.killed - _LOST_SECONDS)
        assert any(question == turn.question and text.startswith(seen) for question, text in said), (turn, said)
    if chat.turns:
        assert chat.turns[-1].question in [question for question, _ in _answered(stored, stored.row.tip)[-2:]]
    return stored


def _assert_resumes(chat: _Chat, stored: Stored) -> None:
    resumed = _Chat(chat.server, chat.home, ["And now?", "/exit"], ["-c", "-m", "demo"])
    resumed.run()
    assert (resumed.status, [turn.reason for turn in resumed.turns]) == (0, [EndReason.COMPLETE]), resumed.screen
    archive = Archive(chat.home / "data" / "conversations.db", notice=complain)
    after = archive.load(stored.row.id)
    archive.close()
    assert after.current[: len(stored.current)] == stored.current
    assert _answered(after, after.row.tip)[-1] == ("And now?", resumed.turns[0].text())


def _kill_one(server: _Server, home: Path, draw: random.Random, token_seconds: float) -> str:
    """Kill a chat once and continue it; return what it was doing."""
    link_demo(home)
    lines = [_LINES[0], *draw.choices(_LINES, k=draw.randint(0, 2)), "/exit"]
    # Mostly during turns, which have 41 to 71 tokens; sometimes while the program starts or ends.
    line = draw.choice([0, len(lines), *range(1, len(lines)), *range(1, len(lines)), *range(1, len(lines))])
    delay = draw.random() * (0.1 if line in (0, len(lines)) else 70 * token_seconds)
    chat = _Chat(server, home, lines, ["-m", "demo"], token_seconds=token_seconds, kill=(line, delay))
    chat.run()
    stored = _assert_saved(chat)
    if stored is not None:
        _assert_resumes(chat, stored)
    if chat.killed is None:
        return "ended"
    if not chat.turns:
        return "before a turn"
    return "at a prompt" if chat.turns[-1].reason else "in a turn"


@contextmanager
def _running() -> Iterator[_Server]:
    server = _Server()
    try:
        yield server
    finally:
        server.close()


def _kill(folder: Path, kills: int, token_seconds: float) -> None:
    draws = [random.Random(number) for number in range(kills)]
    with _running() as server, ThreadPoolExecutor(8) as pool:
        homes = [folder / str(number) for number in range(kills)]
        doing = Counter(pool.map(lambda home, draw: _kill_one(server, home, draw, token_seconds), homes, draws))
    print(dict(doing))
    assert doing["in a turn"] >= kills // 4
    assert doing["ended"] < kills // 20 + 3


def test_a_killed_chat_has_lost_no_question_and_continues(tmp_path: Path) -> None:
    _kill(tmp_path, 4, 0.02)


@pytest.mark.slow
def test_a_chat_killed_at_five_hundred_moments_has_lost_no_question_and_continues(tmp_path: Path) -> None:
    _kill(tmp_path, 530, 0.05)
