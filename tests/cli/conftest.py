"""Turns for the scripted program, and ways to run the program inside the tests."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gptoss_cli import settings
from gptoss_cli.chat.request import OpenModel
from gptoss_cli.cli import main
from gptoss_cli.demo.unpack import demo_checkpoint
from gptoss_cli.harmony.vocabulary import load_encoding
from tests.cli.scripted_program import scripted_opener
from tests.terminal.streams import KeptStream

Run = Callable[..., tuple[int, str, str]]
Script = Callable[..., str]


def turn(answer: str, *, reasoning: str = "") -> list[str | float]:
    """Return the pieces of one complete turn."""
    reasoned = f"<|channel|>analysis<|message|>{reasoning}<|end|><|start|>assistant" if reasoning else ""
    return [f"{reasoned}<|channel|>final<|message|>{answer}<|return|>"]


def ask_here(script: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run `ask` of the scripted program in this process, which starts a hundred times faster."""
    streams = KeptStream(text=stdin), KeptStream(), KeptStream()
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
        status = main.run(["ask", *arguments], open_model=scripted_opener(script))
    signal.signal(signal.SIGTERM, handler)
    return subprocess.CompletedProcess(arguments, status, streams[1].written.decode(), streams[2].written.decode())


def link_demo(home: Path) -> None:
    """Give a new GPTOSS_HOME the unpacked demo and vocabulary of the present one, which takes a second to make."""
    demo_checkpoint()
    load_encoding()
    (home / "cache").mkdir(parents=True)
    for name in ("demo", "vocabulary"):
        (home / "cache" / name).symlink_to(settings.cache_folder() / name)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Return a function that runs a command line in this process, with an empty stdin.

    It returns exit status, stdout and stderr.
    """
    monkeypatch.setattr(sys, "stdin", KeptStream())
    handler = signal.getsignal(signal.SIGTERM)

    def run_in_process(*arguments: str, open_model: OpenModel | None = None) -> tuple[int, str, str]:
        status = main.run(arguments, open_model=open_model)
        return (status, *capsys.readouterr())

    yield run_in_process
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Return a function that writes turns to a file and returns its path, for the scripted program."""

    def write(*turns: list[str | float]) -> str:
        (tmp_path / "turns.json").write_text(json.dumps(turns), "utf-8")
        return str(tmp_path / "turns.json")

    return write
