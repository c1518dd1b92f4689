"""Turns for the scripted program, and ways to run the program inside the tests."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gptoss_cli.chat import opening
from gptoss_cli.cli import main
from tests.cli.scripted_program import scripted_opening
from tests.terminal.streams import KeptStream

Run = Callable[..., tuple[int, str, str]]
Script = Callable[..., str]


def turn(answer: str, *, reasoning: str = "") -> list[str | float]:
    """The pieces of one whole turn."""
    reasoned = f"<|channel|>analysis<|message|>{reasoning}<|end|><|start|>assistant" if reasoning else ""
    return [f"{reasoned}<|channel|>final<|message|>{answer}<|return|>"]


def ask_here(script: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """What the scripted program's `ask` does, in this process: a hundred times quicker to start."""
    streams = KeptStream(text=stdin), KeptStream(), KeptStream()
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "open_model", scripted_opening(script))
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
        status = main.run(["ask", *arguments])
    signal.signal(signal.SIGTERM, handler)
    return subprocess.CompletedProcess(arguments, status, streams[1].written.decode(), streams[2].written.decode())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command line in this process, with an empty stdin; returns exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "stdin", KeptStream())
    handler = signal.getsignal(signal.SIGTERM)

    def run_in_process(*arguments: str) -> tuple[int, str, str]:
        status = main.run(arguments)
        return (status, *capsys.readouterr())

    yield run_in_process
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Writes turns to a file; returns its path for the scripted program."""

    def write(*turns: list[str | float]) -> str:
        (tmp_path / "turns.json").write_text(json.dumps(turns), "utf-8")
        return str(tmp_path / "turns.json")

    return write
