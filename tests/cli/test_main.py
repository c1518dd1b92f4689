"""argv to exit status, and one line for each error."""

import builtins
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from gptoss_cli import __version__
from gptoss_cli.chat.request import ChatRequest, OpenedModel, OpenModel, Say
from gptoss_cli.cli import main
from gptoss_cli.cli.definition import PROGRAM
from gptoss_cli.cli.definition_conversations import CONVERSATIONS
from gptoss_cli.demo.unpack import WEIGHTS, demo_checkpoint
from gptoss_cli.errors import (
    ExitStatus,
    GptossError,
    Hint,
    IntegrityError,
    NotInstalledError,
    ResourceError,
    UsageError,
)
from tests.cli.conftest import Run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _in_process(run: Run) -> None:
    """Give an empty stdin, and restore the signal handlers."""


def _failing(error: BaseException) -> OpenModel:
    """Return an opener that raises `error`."""

    def fail(request: ChatRequest, *, progress: Say, notice: Say) -> OpenedModel:
        raise error

    return fail


@pytest.mark.parametrize("arguments", [["--version"], ["-V"], ["ask", "--version"], ["chat", "-V"]])
def test_the_version_is_printed_everywhere(arguments: list[str], capsys: Capture) -> None:
    assert main.run(arguments) == 0
    assert capsys.readouterr().out == f"gptoss {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["ask", "-h"], ["chat", "--help"]])
def test_help_is_printed_on_stdout(arguments: list[str], capsys: Capture) -> None:
    assert main.run(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("Usage: gptoss ")
    assert captured.err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", "--temperature", "nan", "x"],
        ["ask", "--temperature", "-1", "x"],
        ["ask", "-t", "1e9", "x"],
        ["ask", "--top-p", "0", "x"],
        ["ask", "--top-p", "1.5", "x"],
        ["ask", "--top-k", "0", "x"],
        ["ask", "--max-tokens", "0", "x"],
        ["ask", "--context", "1000000000", "x"],
        ["ask", "--seed", "-1", "x"],
        ["ask", "--effort", "hgh", "x"],
        ["ask", "--dtype", "float16", "x"],
        ["ask", "--reasoning", "maybe", "x"],
        ["ask", "--color", "pink", "x"],
        ["ask", "--modell", "20b", "x"],
        ["ask", "-m"],
        ["aks", "x"],
        ["--bogus"],
        ["ask", "-m", "30b", "x"],
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_2(arguments: list[str], capsys: Capture) -> None:
    assert main.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("gptoss: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("ask --effort hgh x", "There is no effort 'hgh'. Choose none, low, medium or high"),
        ("bench --dense int4", "There is no format of dense weights 'int4'. Choose bf16 or int8"),
        ("config shw", "There is no action 'shw'. Choose show, path, edit or set"),
        ("ask --temperature -1 x", "--temperature is a number from 0 to 10, not -1"),
        ("ask --timeout soon x", "--timeout is a number from 0 to 1000000, not soon"),
        ("ask --seed 1.5 x", "--seed is a whole number from 0 to 4294967295, not 1.5"),
        ("ask --top-k 0 x", "--top-k is a whole number, at least 1, not 0"),
        ("ask --top-p 0 x", "--top-p: 0 leaves no token to choose. For the likeliest token always: --temperature 0"),
        ("plan --ram 64", "--ram: '64' is not a size. Write one like 24GiB, or 0"),
    ],
)
def test_a_wrong_value_is_answered_with_the_right_ones(arguments: str, message: str, capsys: Capture) -> None:
    assert main.run(arguments.split()) == 2
    assert capsys.readouterr().err == f"gptoss: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ("run 20b hi", "There is no command run. To chat: gptoss chat -m 20b. To ask one question: gptoss ask"),
        ("pull llama3", "There is no command pull. To download a model: gptoss download 20b"),
        ("rm 20b", "There is no command rm. To delete a model: gptoss remove 20b"),
        ("ps", "There is no command ps. No model runs in the background. To see the models: gptoss list"),
        ("conversations remove x", "There is no command remove. To remove one: gptoss conversations rm ID"),
    ],
)
def test_a_command_of_a_similar_program_is_answered_with_ours(arguments: str, advice: str, capsys: Capture) -> None:
    assert main.run(arguments.split()) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert captured.err.startswith(f"gptoss: {advice}")


@pytest.mark.parametrize(
    ("arguments", "same"),
    [
        ("help", "--help"),
        ("help ask", "ask --help"),
        ("help conversations", "conversations --help"),
        ("help conversations show", "conversations show --help"),
        ("conversations help show", "conversations show --help"),
    ],
)
def test_help_is_a_command_too(arguments: str, same: str, capsys: Capture) -> None:
    assert main.run(same.split()) == 0
    wanted = capsys.readouterr().out
    assert main.run(arguments.split()) == 0
    assert capsys.readouterr().out == wanted


def test_the_summary_of_a_group_is_that_of_its_help() -> None:
    for name, summary in PROGRAM.commands.summaries():
        assert PROGRAM.commands[name].help.partition("\n")[0] == summary


@pytest.mark.parametrize("command", [*PROGRAM.commands, *(f"conversations {name}" for name in CONVERSATIONS)])
@pytest.mark.parametrize("columns", ["60", "80"])
def test_help_is_in_plain_words(command: str, columns: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main.run([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"<=|>=|list\[|<str>|<path>|\[\[", shown) is None
    assert [line for line in shown.splitlines() if len(line) > int(columns)] == []


def test_a_wrong_variable_is_named(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_EFFORT", "much")
    assert main.run(["ask", "x"]) == 2
    assert capsys.readouterr().err == (
        "gptoss: GPTOSS_EFFORT: There is no effort 'much'. Choose none, low, medium or high\n"
    )


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (GptossError("it failed"), 1),
        (UsageError("it failed"), 2),
        (NotInstalledError("it failed"), 3),
        (IntegrityError("it failed"), 4),
        (ResourceError("it failed"), 6),
    ],
)
def test_each_error_has_its_status(error: GptossError, status: int, capsys: Capture) -> None:
    assert main.run(["ask", "x"], open_model=_failing(error)) == status
    assert capsys.readouterr().err == "gptoss: it failed\n"


def test_a_hint_is_worded_as_a_flag(capsys: Capture) -> None:
    error = ResourceError("the context is full", Hint.LARGER_CONTEXT)
    assert main.run(["ask", "x"], open_model=_failing(error)) == 6
    assert capsys.readouterr().err == "gptoss: the context is full. Use a larger --context\n"


def test_an_unexpected_error_is_one_line_that_points_to_debug(capsys: Capture) -> None:
    assert main.run(["ask", "x"], open_model=_failing(RuntimeError("odd\n\x1b[2Jthing"))) == 1
    line = "gptoss: An error in gptoss itself, RuntimeError: odd ␛[2Jthing. To see where: gptoss --debug ...\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("arguments", [["--debug", "ask", "x"], ["ask", "--debug", "x"]])
def test_debug_shows_where_the_error_arose(arguments: list[str], capsys: Capture) -> None:
    assert main.run(arguments, open_model=_failing(NotInstalledError("it failed"))) == 3
    assert "Traceback" in capsys.readouterr().err


def test_no_memory_exits_6(capsys: Capture) -> None:
    assert main.run(["ask", "x"], open_model=_failing(MemoryError())) == 6
    assert "not enough memory" in capsys.readouterr().err


def test_ctrl_c_while_loading_exits_130_silently(capsys: Capture) -> None:
    assert main.run(["ask", "x"], open_model=_failing(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("arguments", "colored"), [(["--color", "always"], True), (["--color", "never"], False)])
def test_colour_may_be_chosen_before_and_after_the_command(
    arguments: list[str], colored: bool, capsys: Capture
) -> None:
    for line in ([*arguments, "ask", "x"], ["ask", *arguments, "x"]):
        main.run(line, open_model=_failing(UsageError("no")))
        assert ("\x1b[31m" in capsys.readouterr().err) is colored


@pytest.mark.parametrize("arguments", [["--color", "never", "ask", "x"], ["ask", "--color", "never", "x"]])
def test_a_flag_wins_over_the_variable(arguments: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_COLOR", "always")
    main.run(["ask", "x"], open_model=_failing(UsageError("no")))
    assert "\x1b[31m" in capsys.readouterr().err
    main.run(arguments, open_model=_failing(UsageError("no")))
    assert "\x1b[31m" not in capsys.readouterr().err


def test_a_module_in_the_current_folder_is_not_run(tmp_path: Path) -> None:
    for name in ("typer", "torch", "signal"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('run from the current folder')")
    command = [sys.executable, "-m", "gptoss_cli", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"gptoss {__version__}\n")


def test_the_installed_command_is_the_same_program(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "gptoss"
    if not program.exists():
        pytest.skip("gptoss is not installed in this environment")
    done = subprocess.run([program, "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"gptoss {__version__}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["help"], ["ask", "--help"], ["ask", "--version"], ["list"]])
def test_a_full_disk_is_one_line(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main.run(arguments) == 1
        monkeypatch.undo()
        with suppress(OSError):
            full.close()
    assert capsys.readouterr().err == (
        "gptoss: stdout cannot be written: No space left on device; the output is incomplete\n"
    )


def test_little_address_space_is_not_a_broken_installation(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def fail(name: str, *rest: object, **others: object) -> Any:
        if name.startswith("gptoss_cli.chat.opening"):
            raise ImportError("libtorch_cpu.so: failed to map segment from shared object")
        return real(name, *rest, **others)

    real: Any = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", fail)
    monkeypatch.delitem(sys.modules, "gptoss_cli.chat.opening", raising=False)
    assert main.run(["-q", "ask", "-m", "demo", "x"]) == 6
    assert capsys.readouterr().err == "gptoss: There is not enough memory to load the engine. End other programs\n"


def test_help_into_a_pipe_that_closes_is_silent(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "gptoss_cli", "--help"]
    done = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_scale_that_is_no_number_ends_the_answer_and_says_so(run: Run, tmp_path: Path) -> None:
    shutil.copytree(demo_checkpoint(), tmp_path / "model")
    tensors = load_file(tmp_path / "model" / WEIGHTS)
    tensors["model.layers.1.mlp.experts.gate_up_proj_scales"][:, 7, 0] = 255
    save_file(tensors, tmp_path / "new", {"format": "pt"})
    (tmp_path / "new").replace(tmp_path / "model" / WEIGHTS)
    status, out, err = run("ask", "-m", str(tmp_path / "model"), "What is gptoss?")
    assert (status, out) == (ExitStatus.FAILED, "")
    assert "numbers that are not finite" in err
    assert len(err.splitlines()) == 1


class _PanicException(BaseException):
    """An exception as Rust libraries raise it: not an Exception."""


def test_a_panic_of_a_library_is_one_line(capsys: Capture) -> None:
    assert main.run(["ask", "hello"], open_model=_failing(_PanicException("index out of range"))) == ExitStatus.FAILED
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "index out of range" in error


@pytest.mark.parametrize(
    "proxy", ["http://me:sesame1/open2@host:80", "http://me:sesame1@host:port", "me:sesame1@host", "http://:sesame1@["]
)
def test_neither_a_message_nor_a_traceback_has_the_password_of_a_proxy(
    proxy: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    for error in (ValueError(f"Invalid port: {proxy}"), UsageError(f"{proxy} is not a URL"), ValueError("'sesame1'")):
        main.run(["--debug", "ask", "hello"], open_model=_failing(error))
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "sesame1" not in shown
    assert "open2" not in shown
