"""`ask --timeout` ends the command within a second, wherever it stands.

The stages would take half a minute. On a busy machine a second may be several.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_cli.chat import stopping
from gptoss_cli.chat.request import ChatRequest, Notify, OpenedModel, OpenModel, Say
from gptoss_cli.cli import ask, deadline, main, output, prompt_input
from gptoss_cli.harmony import conversation
from gptoss_cli.harmony.events import Event, PrefillProgress
from gptoss_cli.harmony.vocabulary import load_encoding
from tests.cli.conftest import Script
from tests.cli.scripted_program import opened_with
from tests.cli.terminal_driver import SCRIPTED_PROGRAM
from tests.scripted_generator import ScriptedGenerator
from tests.terminal.streams import KeptStream

SOON_SECONDS = 15
STAGES = ("stdin", "grammar", "loading", "encoding", "prefill", "reasoning", "answer")


class Clock:
    """A clock that stands until `start`: however busy the machine is, the time is over in the stage that is tested."""

    def __init__(self) -> None:
        self._started = threading.Event()
        self._at = 0.0

    def start(self) -> None:
        if not self._started.is_set():
            self._at = time.monotonic()
            self._started.set()

    def monotonic(self) -> float:
        return time.monotonic() - self._at if self._started.is_set() else 0.0

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        watch = deadline.Deadline._watch

        def watch_later(limit: deadline.Deadline, at: float, main_thread: int) -> None:
            self._started.wait(60)
            watch(limit, at, main_thread)

        patch.setattr(deadline.Deadline, "_watch", watch_later)
        for module in (ask, deadline, stopping):
            patch.setattr(module, "time", self)


def slow(clock: Clock) -> None:
    """Be busy in short steps, as a computation in Python is."""
    clock.start()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        time.sleep(0.005)


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
            self._clock.start()
            time.sleep(0.005)
            yield len(ids), len(ids)

    def _turn(self, stage: str) -> Iterator[int]:
        pieces = {
            "reasoning": "<|channel|>analysis<|message|>" + " ".join(map(str, range(1_000, 2_000))),
            "answer": "<|channel|>final<|message|>",
        }
        text = pieces.get(stage, "<|channel|>final<|message|>") + " ".join(map(str, range(1_000)))
        for number, id_ in enumerate(load_encoding().encode(text, allowed_special="all")):
            if number == 10:
                self._clock.start()
            time.sleep(0.02)
            yield id_


def ask_slowly(stage: str, *arguments: str) -> tuple[int, str, str, float]:
    """Run `ask` of a program that is slow at `stage` -> exit status, stdout, stderr, seconds."""

    def open_slow(request: ChatRequest, *, progress: Say, notice: Notify) -> OpenedModel:
        if stage == "loading":
            slow(clock)
        return opened_with(SlowGenerator(stage, clock), request)

    clock, streams = Clock(), (KeptStream(), KeptStream(), KeptStream())
    if stage in ("stdin", "none"):
        clock.start()
    reading, writing = os.pipe()
    with pytest.MonkeyPatch.context() as patch, os.fdopen(reading) as stdin, os.fdopen(writing, "w") as pipe:
        clock.patch(patch)
        patch.setattr(deadline, "_GRACE_SECONDS", 60)  # then the whole process would end
        if stage != "stdin":
            pipe.close()
        if stage == "grammar":
            patch.setattr(output, "OutputFormat", None)
            patch.setattr(output, "read_text_file", lambda file, console: slow(clock))
            arguments = (*arguments, "--schema", "file")
        if stage == "encoding":
            patch.setattr(conversation, "render", lambda message, text: slow(clock))
        for name, stream in zip(("stdin", "stdout", "stderr"), (stdin, *streams[1:]), strict=True):
            patch.setattr(sys, name, stream)
        began = time.monotonic()
        status = run_restoring(["ask", *arguments, "hi"], open_slow)
        seconds = time.monotonic() - began
        clock.start()
    return status, streams[1].written.decode(), streams[2].written.decode(), seconds


def run_restoring(arguments: list[str], open_model: OpenModel) -> int:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return main.run(arguments, open_model=open_model)
    finally:
        signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_ends_wherever_it_stands(stage: str) -> None:
    status, out, err, seconds = ask_slowly(stage, "--timeout", "0.3", "--reasoning", "hide")
    assert 0.3 <= seconds < SOON_SECONDS
    assert status == 7
    if stage == "answer":
        assert out.startswith("0 1 2")
        assert err == "gptoss: The answer is cut short: the 0.3 seconds of --timeout ran out.\n"
    else:
        assert (out, err) == ("", "gptoss: No answer: the 0.3 seconds of --timeout ran out.\n")


def test_no_time_at_all_is_over_at_once() -> None:
    assert ask_slowly("none", "--timeout", "0")[0] == 7


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(STAGES), st.floats(0, 0.5), st.sampled_from([(), ("--no-stream",), ("--json",)]))
def test_any_time_limit_ends_any_stage(stage: str, timeout: float, options: tuple[str, ...]) -> None:
    status, _, err, seconds = ask_slowly(stage, "--timeout", str(timeout), *options)
    assert status == 7
    assert timeout <= seconds < SOON_SECONDS
    assert err.endswith(" of --timeout ran out.\n")


@pytest.mark.parametrize("stage", ["stdin", "prefill"])
def test_json_lines_end_with_an_error(stage: str) -> None:
    status, out, _, _ = ask_slowly(stage, "--timeout", "0.2", "--stream-json")
    last = json.loads(out.splitlines()[-1])
    if stage == "stdin":
        message = "No answer: the 0.2 seconds of --timeout ran out."
        assert last == {"type": "error", "status": 7, "message": message}
    else:
        assert (last["type"], last["ended"]) == ("end", "timeout")
    assert status == 7


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


def test_a_time_limit_that_is_not_reached_changes_nothing() -> None:
    status, out, err, _ = ask_slowly("none", "--timeout", "60", "--max-tokens", "20")
    assert (status, out.split()[:2]) == (7, ["0", "1"])
    assert err == "gptoss: The answer is cut short: max-tokens is used up.\n"


def test_a_pipe_that_nobody_closes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_input, "SLOW_STDIN_SECONDS", 0.05)
    _, out, err, _ = ask_slowly("stdin", "--timeout", "0.3")
    reading = "Reading stdin until it is closed. To ask without it: gptoss ask ... < /dev/null"
    assert (out, err.splitlines()) == ("", [reading, "gptoss: No answer: the 0.3 seconds of --timeout ran out."])


def test_a_pipe_that_is_closed_at_once_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_input, "SLOW_STDIN_SECONDS", 0.05)
    _, _, err, _ = ask_slowly("loading", "--timeout", "0.2")
    assert "stdin" not in err
