"""The input of a turn: files, instructions, and the request that options make."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.cli.options import TurnOptions
from gptoss_cli.cli.prompt_input import (
    AttachedFile,
    attachment,
    chat_request,
    instructions_text,
    prompt_text,
    read_text_file,
)
from gptoss_cli.errors import ResourceError, UsageError
from gptoss_cli.settings import Execution
from gptoss_cli.terminal.console import Console
from tests.cli.conftest import Script, turn
from tests.cli.terminal_driver import SCRIPTED_PROGRAM
from tests.terminal.streams import KeptStream, Streams


def _console(piped: bytes) -> Console:
    return Console(KeptStream(text=piped), KeptStream(), KeptStream(), {})


def _attached(*files: Path) -> list[AttachedFile]:
    return [attachment(file, _console(b"")) for file in files]


def test_files_follow_the_words_and_precede_the_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("A\n")
    Path("b.txt").write_text("```\nB\n```")
    text = prompt_text(["Compare"], _console(b"C\n"), attached=_attached(Path("a.txt"), Path("b.txt")))
    assert text == "Compare\n\na.txt:\n```\nA\n```\n\nb.txt:\n````\n```\nB\n```\n````\n\n```\nC\n```"


def test_a_file_alone_is_something_to_ask(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("Why?")
    assert prompt_text([], _console(b""), attached=_attached(tmp_path / "a")).endswith("```\nWhy?\n```")


@pytest.mark.parametrize("kind", ["absent", "folder", "pipe", "loop", "device", "unreadable", "nul"])
def test_what_cannot_be_read_is_named_at_once(kind: str, tmp_path: Path) -> None:
    file = tmp_path / kind
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "loop":
        file.symlink_to(file)
    elif kind == "device":
        file = Path("/dev/zero")
    elif kind == "unreadable":
        file.touch(mode=0)
        if os.access(file, os.R_OK):
            pytest.skip("this user may read everything")
    elif kind == "nul":
        file = tmp_path / "a\0b"
    with pytest.raises(UsageError, match="cannot be read"):
        read_text_file(file, Streams().console)


def test_a_file_of_bytes_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\xff" * 90)
    with pytest.raises(UsageError, match=r"image\.png is not text"):
        read_text_file(tmp_path / "image.png", Streams().console)


def test_a_file_over_every_context_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "long").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ResourceError, match="over 4 MiB"):
        read_text_file(tmp_path / "long", Streams().console)


def test_a_shells_substitution_is_a_file(script: Script) -> None:
    command = [sys.executable, str(SCRIPTED_PROGRAM), script(turn("Fine.")), "ask"]
    program = '"$@" -f <(printf A) -f /dev/stdin <<< B'
    done = subprocess.run(["bash", "-c", program, "bash", *command], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Fine.\n", "")


def test_a_closed_pipe_on_stdin_is_a_usage_error() -> None:
    class Failing(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
            raise OSError(5, "Input/output error")

    stdin = io.TextIOWrapper(io.BufferedReader(Failing()))
    with pytest.raises(UsageError, match="stdin cannot be read: Input/output error"):
        prompt_text([], Console(stdin, KeptStream(), KeptStream(), {}))


def test_plain_instructions_are_taken_as_they_are() -> None:
    assert instructions_text("Be brief.") == "Be brief."
    assert instructions_text(None) is None


def test_instructions_from_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("absent", "pipe", "."):
        with pytest.raises(UsageError, match=r"There is no file|it is not a regular file|it is a folder"):
            instructions_text(f"@{tmp_path / name}")


def test_instructions_that_are_too_long_are_refused(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * (2 << 20))
    with pytest.raises(UsageError, match="too long"):
        instructions_text(f"@{tmp_path / 'long'}")


def test_options_have_the_model_cards_defaults() -> None:
    settings = chat_request(TurnOptions(), Streams().console).settings
    assert (settings.temperature, settings.top_p, settings.top_k, settings.seed) == (1.0, 1.0, None, None)
    assert settings == TurnSettings()


def test_options_make_a_request_for_a_model_and_its_placement() -> None:
    options = TurnOptions(model="20b", device="cpu", threads=2, max_tokens=9, no_prefix_cache=True)
    request = chat_request(options, Streams(terminal=True).console)
    assert (request.model, request.settings.max_tokens) == ("20b", 9)
    assert (request.placement.device, request.placement.threads) == ("cpu", 2)
    assert request.kv_limit_bytes == 0
    assert request.every_reason


def test_options_that_contradict_each_other_make_no_request() -> None:
    with pytest.raises(UsageError):
        chat_request(TurnOptions(device="cuda", execution=Execution.CPU), Streams().console)
