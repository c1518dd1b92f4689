"""`ask --timeout` ends the command within a second, wherever it stands."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_cli.chat.request import ChatRequest, Notify, OpenedModel, OpenModel, Say
from gptoss_cli.cli import main, output, prompt_input
from gptoss_cli.harmony import conversation
from gptoss_cli.harmony.vocabulary import load_encoding
from tests.cli.conftest import Script
from tests.cli.scripted_program import opened_with
from tests.cli.terminal_driver import SCRIPTED_PROGRAM
from tests.scripted_generator import ScriptedGenerator
from tests.terminal.streams import KeptStream

STAGES = ("stdin", "grammar", "loading", "encoding", "prefill", "reasoning", "answer")


def slow(seconds: float = 5) -> None:
    """Be busy in short steps, as a computation in Python is."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.005)


class SlowGenerator(ScriptedGenerator):
    """Takes 5 s for `stage`, in steps between which a turn can end."""

    def __init__(self, stage: str) -> None:
        super().__init__([self._turn(stage)])
        self._stage = stage

    def prefill(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """See TokenGenerator.prefill."""
        yield from super().prefill(ids)
        for _ in range(1_000 if self._stage == "prefill" else 0):
            time.sleep(0.005)
            yield len(ids), len(ids)

    def _turn(self, stage: str) -> Iterator[int]:
        pieces = {"reasoning": "<|channel|>analysis<|message|>" + "Hm " * 300, "answer": "<|channel|>final<|message|>"}
        text = pieces.get(stage, "<|channel|>final<|message|>") + " ".join(map(str, range(500)))
        for id_ in load_encoding().encode(text, allowed_special="all"):
            time.sleep(0.005)
            yield id_


def ask_slowly(stage: str, *arguments: str) -> tuple[int, str, str, float]:
    """Run `ask` of a program that takes 5 s at `stage` -> exit status, stdout, stderr, seconds."""

    def open_slow(request: ChatRequest, *, progress: Say, notice: Notify) -> OpenedModel:
        if stage == "loading":
            slow()
        return opened_with(SlowGenerator(stage), request)

    streams = KeptStream(), KeptStream(), KeptStream()
    reading, writing = os.pipe()
    with pytest.MonkeyPatch.context() as patch, os.fdopen(reading) as stdin, os.fdopen(writing, "w") as pipe:
        if stage != "stdin":
            pipe.close()
        if stage == "grammar":
            patch.setattr(output, "OutputFormat", None)
            patch.setattr(output, "read_text_file", lambda file, console: slow())
            arguments = (*arguments, "--schema", "file")
        if stage == "encoding":
            patch.setattr(conversation, "render", lambda message, text: slow())
        for name, stream in zip(("stdin", "stdout", "stderr"), (stdin, *streams[1:]), strict=True):
            patch.setattr(sys, name, stream)
        began = time.monotonic()
        status = run_restoring(["ask", *arguments, "hi"], open_slow)
        seconds = time.monotonic() - began
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
    assert 0.3 <= seconds < 1.3
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
    assert timeout <= seconds < timeout + 1
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
        ((), "one two\n"),
        pytest.param(("--no-stream",), "one two\n", marks=pytest.mark.slow),
        pytest.param(("--json",), "", marks=pytest.mark.slow),
    ],
)
def test_a_computation_that_looks_at_nothing_is_ended_too(
    options: tuple[str, ...], answered: str, script: Script
) -> None:
    stuck: list[str | float] = ["<|channel|>final<|message|>one two", 30.0]
    command = [sys.executable, str(SCRIPTED_PROGRAM), script(stuck), "ask", "--timeout", "1.5", *options, "x"]
    began = time.monotonic()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert time.monotonic() - began < 10
    assert (done.returncode, done.stdout) == (7, answered)
    assert done.stderr == "gptoss: The answer is cut short: the 1.5 seconds of --timeout ran out.\n"


def test_a_time_limit_that_is_not_reached_changes_nothing() -> None:
    status, out, err, _ = ask_slowly("none", "--timeout", "60", "--max-tokens", "20")
    assert (status, out.split()[:2]) == (7, ["0", "1"])
    assert err == "gptoss: The answer is cut short: --max-tokens is used up.\n"


def test_a_pipe_that_nobody_closes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_input, "SLOW_STDIN_SECONDS", 0.05)
    _, out, err, _ = ask_slowly("stdin", "--timeout", "0.3")
    reading = "Reading stdin until it is closed. To ask without it: gptoss ask ... < /dev/null"
    assert (out, err.splitlines()) == ("", [reading, "gptoss: No answer: the 0.3 seconds of --timeout ran out."])


def test_a_pipe_that_is_closed_at_once_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_input, "SLOW_STDIN_SECONDS", 0.05)
    _, _, err, _ = ask_slowly("loading", "--timeout", "0.2")
    assert "stdin" not in err
