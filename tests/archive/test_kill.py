"""A chat that is killed at any moment loses at most two seconds of an answer, and goes on."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptoss_cli.archive.archive import Archive
from gptoss_cli.harmony.events import Message, Role
from tests.archive.conversations import complain
from tests.archive.saving_program import PIECE_SECONDS

_LOST_SECONDS = 2.0


def _killed(path: Path, seconds: float) -> list[dict[str, str]]:
    """Return the lines of a chat that is killed so long after its first question."""
    repository = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.archive.saving_program", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=repository) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        lines = (first + process.stdout.read()).splitlines(keepends=True)
    assert process.returncode == -signal.SIGKILL
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def _assert_saved(path: Path, printed: list[dict[str, str]]) -> None:
    archive = Archive(path, notice=complain)
    assert archive.check() == []
    last = archive.last()
    assert last is not None
    current = archive.load(last.id).current
    asked = [each["question"] for each in printed if "question" in each]
    saved = [message.text for message in current if message.role is Role.USER]
    # The next question may have been saved without being printed.
    assert asked in (saved[-len(asked) :], saved[-len(asked) - 1 : -1])
    for message in _answers_of_finished_turns(printed):
        assert message in [each.text for each in current if each.complete]
    _assert_recent(printed, current)
    archive.close()


def _answers_of_finished_turns(printed: list[dict[str, str]]) -> list[str]:
    return [each["finished"] for each in printed if "finished" in each]


def _assert_recent(printed: list[dict[str, str]], current: tuple[Message, ...]) -> None:
    question = max(i for i, each in enumerate(printed) if "question" in each)
    shown = [each["shown"] for each in printed[question:] if "shown" in each]
    text = "".join(message.text for message in current if message.is_answer)
    lost = [piece for piece in shown if piece not in text]
    assert len(lost) * PIECE_SECONDS <= _LOST_SECONDS


def _kill(path: Path, kills: int) -> None:
    moments = random.Random(11)
    for _ in range(kills):
        # Often within the first turn, sometimes after many.
        _assert_saved(path, _killed(path, moments.random() ** 3 * 0.5))


def test_killed_chat_has_the_question_and_the_recent_answer(tmp_path: Path) -> None:
    _kill(tmp_path / "conversations.db", 8)


@pytest.mark.slow
def test_chat_killed_five_hundred_times_has_the_question_and_the_recent_answer(tmp_path: Path) -> None:
    for number in range(20):
        _kill(tmp_path / f"{number}.db", 25)
