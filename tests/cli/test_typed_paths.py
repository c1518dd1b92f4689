"""Paths as a user gives them to commands: quoted, as URLs, impossible ones, and things that are no regular files."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.conftest import Run, Script, ask_here, turn
from tests.cli.scripted_program import scripted_opener
from tests.cli.terminal_driver import SCRIPTED_PROGRAM

_FIFOS = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs")
_TEXTS = st.text(st.one_of(st.sampled_from("~$'\"\\/% .:\0-"), st.characters()), max_size=30)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("form", ['"{}"', "'{}'", "file://{}", "{}"])
def test_each_option_takes_a_path_as_terminals_give_it(form: str, folder: Path, script: Script) -> None:
    file, schema, output = folder / "a b.txt", folder / "a schema.json", folder / "an answer.txt"
    file.write_text("content")
    schema.write_text('{"type": "string"}')
    path = script(turn('"Fine."'))
    given = [
        form.format(each).replace(" ", "%20" if form.startswith("file") else " ") for each in (file, schema, output)
    ]
    done = ask_here(path, "-f", given[0], "-s", f"@{given[0]}", "--schema", given[1], "-o", given[2])
    assert (done.returncode, done.stderr) == (0, "")
    assert output.read_text() == '"Fine."\n'


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(_TEXTS)
def test_any_text_as_a_path_has_the_status_of_its_option_and_one_line(script: Script, text: str) -> None:
    path = script(turn("Fine."))
    for arguments in (["-f", text, "x"], [f"-s@{text}", "x"], ["-f", "/", "-o", text, "x"], ["--schema", text, "x"]):
        done = ask_here(path, *arguments)
        assert done.returncode == 2, (arguments, done)
        assert done.stderr.count("\n") == 1, (arguments, done)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(_TEXTS.filter(bool))
def test_any_text_as_a_model_has_a_status_and_one_line(run: Run, text: str) -> None:
    for command in (["plan", "--", text], ["verify", "--", text], ["compare", "--", text], ["inspect", "--", text]):
        status, _, err = run(*command)
        assert status in (2, 3), (command, err)
        assert err.count("\n") == 1, (command, err)


@pytest.mark.parametrize("command", [["evaluate"], ["conversations", "import"], ["conversations", "backup"]])
@pytest.mark.parametrize("name", ["", "~$x", "x" * 300, "a\0b", "\ud800"])
def test_a_name_that_no_file_can_have_is_refused_by_every_command(command: list[str], name: str, run: Run) -> None:
    if command[-1] == "backup" and name == "~$x":
        pytest.skip("a file may have this name")
    status, _, err = run(*command, name)
    assert (status, err.count("\n")) == (2, 1), err


@_FIFOS
@pytest.mark.parametrize("command", [["list"], ["config"], ["ask", "hello"]])
def test_a_fifo_in_the_place_of_the_settings_is_named(command: list[str], folder: Path, run: Run) -> None:
    (folder.parent / "home" / "config").mkdir(parents=True)
    os.mkfifo(folder.parent / "home" / "config" / "config.toml")
    status, _, err = run(*command)
    if command != ["list"]:
        assert status == 2
        assert "config.toml cannot be read: it is not a regular file" in err


@_FIFOS
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "model.safetensors"])
def test_a_fifo_in_a_checkpoint_is_named(name: str, folder: Path, run: Run) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    for command in (["verify", "."], ["plan", "."], ["inspect", "."]):
        status, _, err = run(*command)
        assert status in (2, 3, 4)
        assert err.count("\n") <= 2


@_FIFOS
def test_a_fifo_as_the_file_of_an_option_is_refused_without_waiting(folder: Path, run: Run, script: Script) -> None:
    os.mkfifo(folder / "pipe")
    path = script(turn("Fine."))
    for arguments in (["-f", "pipe", "x"], ["-s", "@pipe", "x"], ["--schema", "pipe", "x"]):
        assert "is not a regular file" in ask_here(path, *arguments).stderr
    for command in (["evaluate", "pipe"], ["conversations", "import", "pipe"]):
        status, _, err = run(*command, open_model=scripted_opener(path))
        assert status == 2
        assert "it is not a regular file" in err


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="there is no /dev/stdout")
@pytest.mark.parametrize("output", ["/dev/stdout", "/dev/fd/1", "-", "/proc/self/fd/1"])
def test_the_answer_can_be_written_to_the_stdout_that_is_a_pipe(output: str, script: Script) -> None:
    command = [sys.executable, str(SCRIPTED_PROGRAM), script(turn("Fine.")), "ask", "-o", output, "x"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Fine.\n", "")


@_FIFOS
def test_an_output_that_is_a_pipe_is_written_to(folder: Path, script: Script) -> None:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    done = ask_here(script(turn("Fine.")), "-o", str(pipe), "x")
    assert (done.returncode, done.stderr) == (0, "")
    assert reader.communicate()[0] == "Fine.\n"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
