"""Bytes on stdout and stderr."""

import time

import pytest

from gptoss_cli.errors import GptossError
from gptoss_cli.settings import ColorChoice
from gptoss_cli.terminal.console import Console, Style
from tests.terminal.streams import KeptStream, Streams

_FORCING = {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "CI": "1", "GITHUB_ACTIONS": "true", "TERM": "xterm-256color"}


class _FailingStream(KeptStream):
    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        raise self._error


def test_a_pipe_gets_the_exact_text_whatever_variables_are_set() -> None:
    streams = Streams(environment=_FORCING)
    streams.console.color = ColorChoice.ALWAYS
    streams.console.out("a\r\n\x1b[31m\x00ü\n")
    assert streams.stdout.written == "a\r\n\x1b[31m\x00ü\n".encode()


def test_a_pipe_is_utf8_in_any_locale() -> None:
    stdout = KeptStream(encoding="ascii")
    Console(None, stdout, None, {}).out("ü")
    assert stdout.written == "ü".encode()


def test_a_terminal_without_the_character_shows_a_question_mark() -> None:
    stdout = KeptStream(terminal=True, encoding="ascii")
    Console(None, stdout, None, {}).out("ü")
    assert stdout.written == b"?"


def test_a_terminal_gets_neutralised_text() -> None:
    streams = Streams(terminal=True)
    streams.console.out("\x1b[2J")
    assert streams.out == "␛[2J"


@pytest.mark.parametrize(
    ("terminal", "choice", "environment", "colored"),
    [
        (True, ColorChoice.AUTO, {}, True),
        (True, ColorChoice.AUTO, {"NO_COLOR": "1"}, False),
        (True, ColorChoice.AUTO, {"NO_COLOR": ""}, True),
        (True, ColorChoice.AUTO, {"TERM": "dumb"}, False),
        (True, ColorChoice.NEVER, {}, False),
        (True, ColorChoice.ALWAYS, {"NO_COLOR": "1"}, True),
        (False, ColorChoice.AUTO, _FORCING, False),
        (False, ColorChoice.ALWAYS, {}, True),
    ],
)
def test_colour_depends_on_the_option_then_the_terminal_and_its_variables(
    terminal: bool, choice: ColorChoice, environment: dict[str, str], colored: bool
) -> None:
    streams = Streams(terminal=terminal, environment=environment)
    streams.console.color = choice
    streams.console.err("x", Style.DIM)
    assert streams.err == ("\x1b[2mx\x1b[0m" if colored else "x")


def test_quiet_drops_notices_and_keeps_errors() -> None:
    streams = Streams()
    streams.console.quiet = True
    streams.console.notice("a notice")
    streams.console.error("an error")
    assert streams.err == "gptoss: an error\n"


def test_a_terminal_gets_messages_in_lines_of_whole_words() -> None:
    terminal, pipe = Streams(terminal=True, environment={"NO_COLOR": "1"}), Streams()
    text = f"{'word ' * 15}a/long/path/{'x' * 90} 漢字 end"
    for streams in (terminal, pipe):
        streams.console.error(text)
        streams.console.notice(text)
        streams.console.lines(f"  {text}")
    assert pipe.err == f"gptoss: {text}\n{text}\n  {text}\n"
    assert terminal.err.split() == pipe.err.split()
    assert all(len(line) <= 80 or "/path/" in line for line in terminal.err.splitlines())
    assert "\n  word" in terminal.err


def test_an_error_is_one_line_without_control_characters() -> None:
    streams = Streams()
    streams.console.error("tensor \x1b]0;x\x07\nmissing")
    assert streams.err == "gptoss: tensor ␛]0;x␇ missing\n"


def test_a_full_disk_is_an_error_of_one_line() -> None:
    console = Console(None, _FailingStream(OSError(28, "No space left on device")), None, {})
    with pytest.raises(GptossError, match="stdout cannot be written: No space left on device"):
        console.out("x")


def test_a_closed_pipe_is_a_broken_pipe_error() -> None:
    console = Console(None, _FailingStream(BrokenPipeError(32, "Broken pipe")), None, {})
    with pytest.raises(BrokenPipeError):
        console.out("x")


@pytest.mark.parametrize("stderr", [None, _FailingStream(OSError(28, "No space left on device"))])
def test_the_answer_is_written_if_stderr_cannot_be(stderr: KeptStream | None) -> None:
    stdout = KeptStream()
    console = Console(None, stdout, stderr, {})
    console.err("reasoning")
    console.out("answer")
    assert stdout.written == b"answer"


def test_an_activity_is_drawn_and_removed() -> None:
    streams = Streams(terminal=True)
    with streams.console.activity() as activity:
        activity.say("Loading 20b")
        time.sleep(0.5)
    assert "Loading 20b" in streams.err
    assert streams.err.endswith("\r\x1b[K")


def test_a_short_activity_is_not_drawn() -> None:
    streams = Streams(terminal=True)
    with streams.console.activity() as activity:
        activity.say("Loading 20b")
    assert streams.err == ""


@pytest.mark.parametrize(("terminal", "environment"), [(False, _FORCING), (True, {"TERM": "dumb"})])
def test_an_activity_is_drawn_on_a_capable_terminal_only(terminal: bool, environment: dict[str, str]) -> None:
    streams = Streams(terminal=terminal, environment=environment)
    with streams.console.activity() as activity:
        activity.say("Loading 20b")
        time.sleep(0.4)
    assert streams.err == ""
