"""A mapped file that becomes shorter while a chat runs: one line, exit 4, a usable terminal, a saved conversation."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gptoss_cli.demo.unpack import WEIGHTS, demo_checkpoint
from gptoss_cli.engine.kernels.native_library import find_library
from gptoss_cli.errors import ExitStatus
from tests.cli.conftest import Run
from tests.cli.terminal_driver import Terminal

pytestmark = pytest.mark.skipif(
    find_library() is None or not sys.platform.startswith("linux"), reason="the native library names files on Linux"
)
_PROGRAM = """
import ctypes, mmap, os, sys
from gptoss_cli.engine.kernels.native_library import MappedFile, Native, find_library
file = open(sys.argv[1], "r+b")
mapped = mmap.mmap(file.fileno(), 0)
start = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
files = [MappedFile(start, start + int(sys.argv[2]), b"This file.\\n")]
Native(find_library()).end_at_lost_page(b"Another file.\\n", files, 4)
if sys.argv[3] == "kill":
    os.kill(os.getpid(), 7)
file.truncate(10)
print(mapped[100_000])
"""


@pytest.mark.parametrize(
    ("known_bytes", "act", "status", "line"),
    [
        (1 << 20, "truncate", ExitStatus.INTEGRITY, "This file.\n"),
        (4096, "truncate", ExitStatus.INTEGRITY, "Another file.\n"),
        (1 << 20, "kill", -7, ""),
    ],
)
def test_a_lost_page_is_one_line_about_its_file(
    known_bytes: int, act: str, status: int, line: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(1 << 20))
    command = [sys.executable, "-c", _PROGRAM, str(file), str(known_bytes), act]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", line)


def test_a_chat_whose_model_becomes_shorter_ends_in_order(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(demo_checkpoint(), model)
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    with Terminal(["-m", "gptoss_cli", "chat", "-m", str(model), "--seed", "1"]) as terminal:
        terminal.wait_for(">")
        terminal.type("What is gptoss?\r")
        terminal.wait_for("\n\n>")
        terminal.wait_for_prompt()
        os.truncate(model / WEIGHTS, 5000)
        terminal.type("What is a sink?\r")
        assert terminal.wait() == ExitStatus.INTEGRITY
        shown = "".join(terminal.text.split())  # the terminal wraps the line
        line = (
            f"gptoss: {model / WEIGHTS} became shorter while it was in use, so gptoss cannot go on."
            f" Run: gptoss verify {model}"
        )
        assert shown.endswith(line.replace(" ", ""))
        assert terminal.restored()
    status, out, _ = run("conversations", "export", "--all")
    assert status == 0
    assert "What is gptoss?" in out
    assert "What is a sink?" in out
