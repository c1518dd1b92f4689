"""`gptoss ask`: what it makes of words and pipes, and what it leaves on its streams."""

import io
import re
import signal
import subprocess
import sys
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest

from gptoss_cli.archive.recorder import Attachment
from gptoss_cli.chat.session import ChatSession
from gptoss_cli.cli.prompt_input import prompt_text
from gptoss_cli.errors import ResourceError, UsageError
from gptoss_cli.harmony.events import Event
from gptoss_cli.terminal.console import Console
from tests.cli.conftest import Script, ask_here, turn
from tests.cli.terminal_driver import SCRIPTED_PROGRAM, ForkedTerminal, Terminal
from tests.terminal.streams import KeptStream


def _console(piped: bytes | None) -> Console:
    """A console with `piped` on stdin, or a terminal there."""
    return Console(KeptStream(text=piped or b"", terminal=piped is None), KeptStream(), KeptStream(), {})


def _ask(script: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, str(SCRIPTED_PROGRAM), script, "ask", *arguments], input=stdin, capture_output=True
    )


@pytest.mark.parametrize(
    ("words", "piped", "text"),
    [
        (["Why", "is", "it?"], None, "Why is it?"),
        (["Why?"], b"", "Why?"),
        (["Why?"], b" \n", "Why?"),
        ([], b"Why?\n", "Why?\n"),
        (["-"], b"Why?", "Why?"),
        (["Explain"], b"a\nb\n", "Explain\n\n```\na\nb\n```"),
        (["Explain"], b"```\nx\n````\n", "Explain\n\n`````\n```\nx\n````\n`````"),
        (["a\udcffb"], None, "a\ufffdb"),
        (["a\ud800b"], None, "a\ufffdb"),  # noqa: PT014  another surrogate
        ([], "\ufeffüber".encode(), "über"),
        ([], "\ufeffüber".encode("utf-16-le"), "über"),
        ([], "\ufeffüber".encode("utf-16-be"), "über"),
    ],
)
def test_words_and_a_pipe_make_the_prompt(words: list[str], piped: bytes | None, text: str) -> None:
    assert prompt_text(words, _console(piped)) == text


@pytest.mark.parametrize(("words", "piped"), [([], None), ([" "], None), ([], b""), (["-"], b"\n"), (["", ""], b"")])
def test_nothing_to_ask_is_a_usage_error(words: list[str], piped: bytes | None) -> None:
    with pytest.raises(UsageError, match="There is no prompt"):
        prompt_text(words, _console(piped))


def test_a_closed_stdin_is_an_empty_one() -> None:
    assert prompt_text(["Why?"], Console(None, KeptStream(), KeptStream(), {})) == "Why?"


@pytest.mark.parametrize("data", [bytes(range(256)) * 8, b"\x7fELF" + b"\0" * 500, b"\x89PNG\r\n\x1a\n" + b"\xff" * 90])
def test_binary_input_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match="is not text"):
        prompt_text([], _console(data))


def test_a_few_bad_bytes_are_replaced_and_said() -> None:
    console = _console(b"a long enough text with one bad \xff byte")
    assert prompt_text([], console) == "a long enough text with one bad \ufffd byte"


def test_an_endless_pipe_is_read_no_further_than_any_context() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
            self.given += len(buffer)
            buffer[:] = b"y" * len(buffer)
            return len(buffer)

    endless = Endless()
    stdin = io.TextIOWrapper(io.BufferedReader(endless))
    with pytest.raises(ResourceError, match="more than the context of any model holds"):
        prompt_text([], Console(stdin, KeptStream(), KeptStream(), {}))
    assert endless.given < 2**23


def test_stdout_is_the_answer_and_one_newline(script: Script) -> None:
    answer = "a\r\n\x1b[31m\x00 **b** [/x] ü\n"
    done = _ask(script(turn(answer, reasoning="Hm.")), "x")
    assert (done.returncode, done.stdout) == (0, f"{answer}\n".encode())
    assert done.stderr == b"Hm.\n"


def test_forced_colour_changes_no_byte_of_stdout(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("FORCE_COLOR", "CLICOLOR_FORCE", "CI", "GITHUB_ACTIONS"):
        monkeypatch.setenv(variable, "1")
    done = _ask(script(turn("Blue.", reasoning="Hm.")), "--color", "always", "x")
    assert done.stdout == b"Blue.\n"
    assert done.stderr.startswith(b"\x1b[2mHm")


def test_the_c_locale_is_no_error(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    monkeypatch.setenv("PYTHONCOERCECLOCALE", "0")
    assert _ask(script(turn("über 漢")), "x").stdout == "über 漢\n".encode()


def test_bytes_that_are_no_text_in_the_prompt_are_no_error(script: Script) -> None:
    command = [sys.executable.encode(), bytes(SCRIPTED_PROGRAM), script(turn("Fine.")).encode(), b"ask", b"\xff\xfe x"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"Fine.\n")


def test_verbose_adds_one_line_about_the_turn(script: Script) -> None:
    done = ask_here(script(turn("Blue.", reasoning="Hm.")), "-v", "--seed", "7", "Sky?")
    assert (done.returncode, done.stdout) == (0, "Blue.\n")
    assert re.fullmatch(
        r"Hm.\nTokens: \d+ prompt \(0 cached\), \d reasoning, \d answer; [\d.]+ s to the first; .+ tokens/s; seed 7\n",
        done.stderr,
    )


def test_an_answer_cut_by_max_tokens_exits_7_and_is_kept(script: Script) -> None:
    done = ask_here(script(turn("one two three four five six")), "--max-tokens", "6", "x")
    assert done.returncode == 7
    assert done.stdout == "one two three\n"
    assert done.stderr == "gptoss: The answer is cut short: max-tokens is used up.\n"


def test_a_turn_without_an_answer_exits_1_and_leaves_stdout_empty(script: Script) -> None:
    done = ask_here(script(["<|channel|>analysis<|message|>Hm.<|return|>"]), "x")
    assert (done.returncode, done.stdout) == (1, "")


_SQUARES = "<|channel|>analysis<|message|>" + " ".join(str(n * n) for n in range(300)) + "<|return|>"


def test_a_think_budget_ends_the_reasoning_and_says_so(script: Script) -> None:
    done = ask_here(script([_SQUARES]), "--think-budget", "40", "x")
    assert done.returncode == 0
    assert done.stdout.strip()
    assert done.stderr.endswith("\nThe reasoning has used up its budget: the answer follows.\n")


def test_reasoning_that_goes_in_circles_is_ended(script: Script) -> None:
    circles = "<|channel|>analysis<|message|>" + "Let me check again. " * 200 + "<|return|>"
    done = ask_here(script([circles]), "--reasoning", "hide", "x")
    assert (done.returncode, done.stderr) == (0, "The reasoning repeated itself: the answer follows.\n")


def test_an_answer_that_goes_in_circles_is_stopped(script: Script) -> None:
    done = ask_here(script(turn("All work and no play. " * 2_000)), "x")
    assert done.returncode == 7
    assert done.stderr.startswith("gptoss: The answer is cut short: it repeated itself")


def test_without_reasoning_the_answer_comes_at_once(script: Script) -> None:
    done = ask_here(script(["Blue.<|return|>"]), "-e", "none", "x")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Blue.\n", "")


def test_an_empty_answer_is_none(script: Script) -> None:
    done = ask_here(script(turn(" \n")), "x")
    assert (done.returncode, done.stderr) == (1, "gptoss: The model ended its turn without an answer. Ask again.\n")


def test_a_limit_that_falls_into_the_reasoning_leaves_no_answer(script: Script) -> None:
    done = ask_here(script([_SQUARES]), "--max-tokens", "20", "x")
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.endswith("gptoss: No answer: max-tokens is used up.\n")


def test_headers_that_are_free_may_be_malformed_and_the_answer_comes(script: Script) -> None:
    malformed = "<|channel|>commentary 2?<|end|><|start|>assistant<|channel|>final<|message|>Blue.<|return|>"
    done = ask_here(script([malformed]), "--free-headers", "x")
    assert (done.returncode, done.stdout) == (0, "Blue.\n")


def test_a_tool_call_exits_1(script: Script) -> None:
    call = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
    done = ask_here(script([call]), "--free-headers", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert "The model called a tool" in done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_comes_before_the_first_event_ends_the_turn(
    number: signal.Signals, status: int, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turn_of(session: ChatSession, text: str, attachments: Iterable[Attachment] = ()) -> Generator[Event]:
        signal.raise_signal(number)
        yield from original(session, text, attachments)

    original = ChatSession.turn
    monkeypatch.setattr(ChatSession, "turn", turn_of)
    done = ask_here(script(turn("Never.")), "Hi")
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_ctrl_c_keeps_what_was_printed_and_exits_130(script: Script) -> None:
    with _running(script) as process:
        assert process.stdout is not None
        assert process.stdout.read(7) == b"one two"
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate()
    assert (process.returncode, errors) == (130, b"")
    assert rest in (b"\n", b" three\n")


def test_sigterm_exits_143(script: Script) -> None:
    with _running(script) as process:
        assert process.stdout is not None
        process.stdout.read(7)
        process.terminate()
        _, errors = process.communicate()
    assert (process.returncode, errors) == (143, b"")


def test_a_reader_that_leaves_ends_it_silently_with_141(script: Script) -> None:
    with _running(script) as process:
        assert process.stdout is not None
        process.stdout.read(7)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait() == 141


def _running(script: Script) -> subprocess.Popen[bytes]:
    slow: list[str | float] = ["<|channel|>final<|message|>one two", 0.7, " three", 0.1, " four<|return|>"]
    command = [sys.executable, str(SCRIPTED_PROGRAM), script(slow), "ask", "x"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("target", ["/dev/full", None])
def test_an_answer_that_cannot_be_written_exits_1(target: str | None, script: Script) -> None:
    shell = f'exec "$@" {">" + target if target else ">&-"}'
    command = [sys.executable, str(SCRIPTED_PROGRAM), script(turn("Blue.")), "ask", "x"]
    done = subprocess.run(["sh", "-c", shell, "sh", *command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("gptoss: stdout cannot be written: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_the_answer_comes_where_stderr_cannot_be_written(redirection: str, script: Script) -> None:
    command = [sys.executable, str(SCRIPTED_PROGRAM), script(turn("Blue.", reasoning="Hm.")), "ask", "x"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert (done.returncode, done.stdout) == (0, b"Blue.\n")


def test_on_a_terminal_the_answer_is_neutralised(script: Script) -> None:
    with Terminal([str(SCRIPTED_PROGRAM), script(turn("a\x1b[2Jb", reasoning="Hm.")), "ask", "x"]) as terminal:
        assert terminal.wait() == 0
        assert terminal.text == "Hm.\n\na␛[2Jb"
        assert b"\x1b[2mHm" in terminal.raw


_MARKDOWN = "**Words** that go on and on, to the end of it.\n\n- `one`\n\n| a | b |\n|---|---|\n| 1<br>2 | 3 |"
_RENDERED = "Words that go on and\non, to the end of it.\n\n• one\n\na │ b\n──┼──\n1 │ 3\n2 │"


@pytest.mark.parametrize("arguments", [[], ["--no-stream"]])
def test_on_a_terminal_the_answer_is_rendered_and_words_stay_whole(arguments: list[str], script: Script) -> None:
    turns = script(turn(_MARKDOWN, reasoning="Some reasoning, also of whole words."))
    with ForkedTerminal("ask", *arguments, "x", script=turns, columns=22) as terminal:
        assert terminal.wait() == 0
        assert terminal.text == f"Some reasoning, also\nof whole words.\n\n{_RENDERED}"


def test_in_a_pipe_the_answer_is_as_it_was_written(script: Script) -> None:
    done = ask_here(script(turn(_MARKDOWN)), "x")
    assert done.stdout == f"{_MARKDOWN}\n"


@pytest.mark.parametrize(
    ("redirection", "shown"),
    [("2>/dev/null", _RENDERED), (">/dev/null", "Some reasoning, also\nof whole words.")],
)
def test_each_stream_that_is_a_terminal_is_rendered(redirection: str, shown: str, script: Script) -> None:
    turns = script(turn(_MARKDOWN, reasoning="Some reasoning, also of whole words."))
    shell = "import os, sys; os.execvp('sh', ['sh', '-c', sys.argv[1], 'sh', sys.executable, *sys.argv[2:]])"
    command = ["-c", shell, f'exec "$@" {redirection}', str(SCRIPTED_PROGRAM), turns, "ask", "x"]
    with Terminal(command, columns=22) as terminal:
        assert terminal.wait() == 0
        assert terminal.text == shown


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colour_a_terminal_gets_no_escape(
    variables: dict[str, str], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with ForkedTerminal("ask", "x", script=script(turn("Blue.", reasoning="Hm."))) as terminal:
        assert terminal.wait() == 0
        assert terminal.text == "Hm.\n\nBlue."
        assert b"\x1b[2m" not in terminal.raw


def test_instructions_come_from_a_file(script: Script, tmp_path: Path) -> None:
    (tmp_path / "instructions.txt").write_text("Be brief.")
    assert ask_here(script(turn("Ok.")), "-s", f"@{tmp_path / 'instructions.txt'}", "x").returncode == 0
    done = ask_here(script(turn("Ok.")), "-s", f"@{tmp_path / 'absent.txt'}", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "absent.txt" in done.stderr
