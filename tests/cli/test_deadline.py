"""`ask --timeout` ends the command within a second, wherever it stands.

Time is that of a clock which only the stages move on, so the second is exact on a machine that is busy, too.
"""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_cli.chat import stopping
from gptoss_cli.chat.request import ChatRequest, Notify, OpenedModel, OpenModel, Say
from gptoss_cli.cli import deadline, main, output, prompt_input
from gptoss_cli.harmony import conversation
from gptoss_cli.harmony.events import Event, PrefillProgress
from gptoss_cli.harmony.vocabulary import load_encoding
from tests.cli.conftest import Script
from tests.cli.scripted_program import opened_with
from tests.cli.terminal_driver import SCRIPTED_PROGRAM
from tests.scripted_generator import ScriptedGenerator
from tests.terminal.streams import KeptStream

STAGES = ("stdin", "grammar", "loading", "encoding", "prefill", "reasoning", "answer")


class Clock:
    """Time that passes only in `spend`. However busy the machine is, a time limit is over in the stage that is tested.

    A thread that waits for a time is woken at it, and no time passes until that thread waits again or has ended. There
    are no locks: the alarm may come anywhere.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._sleepers: dict[object, float] = {}

    def monotonic(self) -> float:
        return self._now

    def spend(self, seconds: float, step: float = 0.005) -> None:
        """Be busy for so long in short steps, as a computation in Python is."""
        wait_until(lambda: len(self._sleepers) > 0)
        for _ in range(round(seconds / step)):
            self._now += step
            wait_until(lambda: all(at > self._now for at in list(self._sleepers.values())))

    def event(self) -> threading.Event:
        """Return an event whose time limit of `wait` is one of this clock."""
        clock = self

        class _Event(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                assert timeout is not None
                until = clock._sleepers[self] = clock._now + timeout
                wait_until(lambda: self.is_set() or clock._now >= until)
                return self.is_set()

            def set(self) -> None:
                super().set()
                clock._sleepers[self] = math.inf

        return _Event()

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        """Make the program use this clock. Its last resort, the end of the process, does nothing but come late."""
        patch.setattr(deadline.Deadline, "_exit", lambda limit: limit.end())
        patch.setattr(deadline, "threading", SimpleNamespace(**{**vars(threading), "Event": self.event}))
        for module in (main, deadline, stopping):
            patch.setattr(module, "time", self)


def wait_until(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < end, "a thread hangs"
        time.sleep(0.0002)


class SlowGenerator(ScriptedGenerator):
    """Takes half a minute for `stage`, in steps between which a turn can end."""

    def __init__(self, stage: str, clock: Clock) -> None:
        super().__init__([self._turn(stage)])
        self._stage = stage
        self._clock = clock

    def prefill(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """See TokenGenerator.prefill."""
        yield from super().prefill(ids)
        for _ in range(6_000 if self._stage == "prefill" else 0):
            self._clock.spend(0.005)
            yield len(ids), len(ids)

    def _turn(self, stage: str) -> Iterator[int]:
        pieces = {"reasoning": "<|channel|>analysis<|message|>" + " ".join(map(str, range(1_000, 2_000)))}
        text = pieces.get(stage, "<|channel|>final<|message|>") + " ".join(map(str, range(1_000)))
        for id_ in load_encoding().encode(text, allowed_special="all"):
            self._clock.spend(0.02)
            yield id_


@dataclass(frozen=True)
class Ended:
    """The end of a command, and how many seconds after the end of its time it came."""

    status: int
    out: str
    err: str
    late: float


def ask_slowly(stage: str, timeout: float, *arguments: str, told: str = "") -> Ended:
    """Run `ask` of a program that is slow at `stage`. No time passes on stdin before `told` is on stderr."""

    def slow(*_: object) -> None:
        clock.spend(30)

    def open_slow(request: ChatRequest, *, progress: Say, notice: Notify) -> OpenedModel:
        if stage == "loading":
            slow()
        return opened_with(SlowGenerator(stage, clock), request)

    def let_time_pass() -> None:
        while told not in streams[2].written.decode():
            time.sleep(0.005)
        clock.spend(timeout + 0.4)

    clock, streams = Clock(), (KeptStream(), KeptStream(), KeptStream())
    reading, writing = os.pipe()
    with pytest.MonkeyPatch.context() as patch, os.fdopen(reading) as stdin, os.fdopen(writing, "w") as pipe:
        clock.patch(patch)
        if stage == "stdin":
            threading.Thread(target=let_time_pass, daemon=True).start()
        else:
            pipe.close()
        if stage == "grammar":
            patch.setattr(output, "OutputFormat", None)
            patch.setattr(output, "read_text_file", slow)
            arguments = (*arguments, "--schema", "file")
        if stage == "encoding":
            patch.setattr(conversation, "render", slow)
        for name, stream in zip(("stdin", "stdout", "stderr"), (stdin, *streams[1:]), strict=True):
            patch.setattr(sys, name, stream)
        status = run_restoring(["ask", "--timeout", str(timeout), *arguments, "hi"], open_slow)
    return Ended(status, streams[1].written.decode(), streams[2].written.decode(), clock.monotonic() - timeout)


def run_restoring(arguments: list[str], open_model: OpenModel) -> int:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return main.run(arguments, open_model=open_model)
    finally:
        signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_ends_wherever_it_stands(stage: str) -> None:
    ended = ask_slowly(stage, 0.3, "--reasoning", "hide")
    assert 0 <= ended.late < 0.5
    assert ended.status == 7
    if stage == "answer":
        assert ended.out.startswith("0 1 2")
        assert ended.err == "gptoss: The answer is cut short: the 0.3 seconds of --timeout ran out.\n"
    else:
        assert (ended.out, ended.err) == ("", "gptoss: No answer: the 0.3 seconds of --timeout ran out.\n")


def test_no_time_at_all_is_over_at_once() -> None:
    ended = ask_slowly("none", 0)
    assert (ended.status, ended.out) == (7, "")


def check_any_time_limit(stage: str, timeout: float, options: tuple[str, ...]) -> None:
    ended = ask_slowly(stage, timeout, *options)
    assert ended.status == 7
    assert 0 <= ended.late < 0.5
    assert ended.err.endswith(" of --timeout ran out.\n")


ANY_LIMIT = (
    st.sampled_from(STAGES),
    st.floats(0, 5).map(lambda seconds: round(seconds, 2)),
    st.sampled_from([(), ("--no-stream",), ("--json",), ("--stream-json",)]),
)


@settings(max_examples=20, deadline=None)
@given(*ANY_LIMIT)
def test_any_time_limit_ends_any_stage(stage: str, timeout: float, options: tuple[str, ...]) -> None:
    check_any_time_limit(stage, timeout, options)


@pytest.mark.slow
@settings(max_examples=1_000, deadline=None)
@given(*ANY_LIMIT)
def test_a_thousand_time_limits_end_any_stage(stage: str, timeout: float, options: tuple[str, ...]) -> None:
    check_any_time_limit(stage, timeout, options)


@pytest.mark.parametrize("stage", ["stdin", "prefill"])
def test_json_lines_end_with_an_error(stage: str) -> None:
    ended = ask_slowly(stage, 0.2, "--stream-json")
    last = json.loads(ended.out.splitlines()[-1])
    if stage == "stdin":
        message = "No answer: the 0.2 seconds of --timeout ran out."
        assert last == {"type": "error", "status": 7, "message": message}
    else:
        assert (last["type"], last["ended"]) == ("end", "timeout")
    assert ended.status == 7


@pytest.mark.parametrize(
    ("options", "answered"),
    [
        pytest.param((), "one two\n", marks=pytest.mark.slow),
        pytest.param(("--no-stream",), "one two\n", marks=pytest.mark.slow),
        pytest.param(("--json",), "", marks=pytest.mark.slow),
    ],
)
def test_a_computation_that_looks_at_nothing_is_ended_too(
    options: tuple[str, ...], answered: str, script: Script
) -> None:
    stuck: list[str | float] = ["<|channel|>final<|message|>one two", 30.0]
    command = [sys.executable, str(SCRIPTED_PROGRAM), script(stuck), "ask", "--timeout", "4", *options, "x"]
    began = time.monotonic()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert time.monotonic() - began < 20
    assert (done.returncode, done.stdout) == (7, answered)
    assert done.stderr == "gptoss: The answer is cut short: the 4 seconds of --timeout ran out.\n"


def test_after_the_grace_the_process_ends_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    statuses: list[int] = []

    def end(status: int) -> None:
        statuses.append(status)
        ended.set()

    monkeypatch.setattr("os._exit", end)
    monkeypatch.setattr(deadline, "_GRACE_SECONDS", 0.05)
    written: list[str] = []
    limit = deadline.Deadline(0.05, began=time.monotonic(), give_up=lambda: written.append("cut short"))
    with limit.watched():
        list(limit.ending(stuck(ended), lambda: written.append("stop")))
    assert (written, statuses) == (["stop", "cut short"], [7])


def stuck(ended: threading.Event) -> Iterator[Event]:
    """A turn that looks at no flag after its first event."""
    yield PrefillProgress(0, 1)
    assert ended.wait(30)


def test_the_time_counts_from_the_start_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    def open_never(request: ChatRequest, *, progress: Say, notice: Notify) -> OpenedModel:
        pytest.fail("the time was over before")

    handler = signal.getsignal(signal.SIGTERM)
    try:
        arguments = ["ask", "--timeout", "50", "hi"]
        assert main.run(arguments, open_model=open_never, began=time.monotonic() - 60) == 7
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert capsys.readouterr().err == "gptoss: No answer: the 50 seconds of --timeout ran out.\n"


def test_a_time_limit_that_is_not_reached_changes_nothing() -> None:
    ended = ask_slowly("none", 60, "--max-tokens", "20")
    assert (ended.status, ended.out.split()[:2]) == (7, ["0", "1"])
    assert ended.err == "gptoss: The answer is cut short: max-tokens is used up.\n"


def test_a_pipe_that_nobody_closes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_input, "SLOW_STDIN_SECONDS", 0.05)
    reading = "Reading stdin until it is closed. To ask without it: gptoss ask ... < /dev/null"
    ended = ask_slowly("stdin", 0.3, told=reading)
    assert ended.out == ""
    assert ended.err.splitlines() == [reading, "gptoss: No answer: the 0.3 seconds of --timeout ran out."]


def test_a_pipe_that_is_closed_at_once_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_input, "SLOW_STDIN_SECONDS", 0.2)
    assert "stdin" not in ask_slowly("loading", 0.2).err
