"""The output of `gptoss ask` besides plain text: JSON, lines, a code block, a file, and formats of the answer."""

import json
import os
import signal
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gptoss_cli.cli.output import code_block, output_format, replace_file
from gptoss_cli.errors import GptossError, UsageError
from tests.cli.conftest import Script, ask_here, turn
from tests.cli.terminal_driver import SCRIPTED_PROGRAM
from tests.terminal.streams import Streams

_SLOW: list[str | float] = ["<|channel|>final<|message|>one two", 0.7, " three", 0.1, " four<|return|>"]


def _ask(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ask_here(script, *arguments, "x")


def _lines(stdout: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in stdout.splitlines()]
    validator = jsonschema.Draft202012Validator(_schema("ask-lines.json"))
    for line in lines:
        validator.validate(line)
    return lines


def _schema(name: str) -> Any:
    return json.loads((resources.files("gptoss_cli.cli") / "schemas" / name).read_text("utf-8"))


def test_json_is_one_object_that_its_schema_allows(script: Script) -> None:
    done = _ask(script(turn("Blue \x1b[2J\u2028ü\n", reasoning="Hm.")), "--json", "--seed", "5", "-e", "low")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    jsonschema.validate(told, _schema("ask.json"))
    assert (told["answer"], told["reasoning"]) == ("Blue \x1b[2J\u2028ü\n", "Hm.")
    assert (told["seed"], told["effort"], told["ended"], told["model"]) == (5, "low", "complete", "scripted")
    assert told["prompt_tokens"] > 10
    assert told["seconds"] >= told["first_token_seconds"] > 0


@pytest.mark.parametrize("name", ["ask.json", "ask-lines.json"])
def test_the_schemas_are_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(_schema(name))


def test_hidden_reasoning_is_not_in_the_json(script: Script) -> None:
    done = _ask(script(turn("Blue.", reasoning="Hm.")), "--json", "--reasoning", "hide")
    assert json.loads(done.stdout)["reasoning"] is None


def test_an_answer_cut_short_is_told_in_json_and_exits_7(script: Script) -> None:
    done = _ask(script(turn("one two three four five six")), "--json", "--max-tokens", "6")
    assert done.returncode == 7
    assert json.loads(done.stdout)["ended"] == "token limit"
    assert done.stderr == "gptoss: The answer is cut short: max-tokens is used up.\n"


@pytest.mark.parametrize("arguments", [["--json"], ["--no-stream"], ["-x"]])
def test_without_an_answer_stdout_stays_empty(arguments: list[str], script: Script) -> None:
    done = _ask(script(["<|channel|>analysis<|message|>Hm.<|return|>"]), *arguments)
    assert (done.returncode, done.stdout) == (1, "")


def test_lines_say_the_same_as_the_answer(script: Script) -> None:
    done = _ask(script(turn("Blue\nsky.", reasoning="Light, then.")), "--stream-json")
    first, *between, last = _lines(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert (first["type"], first["version"], last["type"], last["ended"]) == ("start", 1, "end", "complete")
    assert "".join(line["text"] for line in between if line["type"] == "answer") == "Blue\nsky."
    assert "".join(line["text"] for line in between if line["type"] == "reasoning") == "Light, then."


def test_lines_tell_what_was_done_to_the_reasoning(script: Script) -> None:
    squares = "<|channel|>analysis<|message|>" + " ".join(str(n * n) for n in range(30)) + "<|return|>"
    lines = _lines(_ask(script([squares]), "--stream-json", "--think-budget", "20").stdout)
    assert [line["text"] for line in lines if line["type"] == "notice"] == [
        "The reasoning was cut after 19 tokens: budget."
    ]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["-f", "absent"], 2), (["--json"], 2), (["-o", "/"], 2), (["-s", "@absent"], 2), ([], 1)],
)
def test_lines_end_with_an_error_whatever_it_is(arguments: list[str], status: int, script: Script) -> None:
    done = _ask(script(["<|channel|>analysis<|message|>Hm.<|return|>"]), "--stream-json", *arguments)
    last = _lines(done.stdout)[-1]
    assert (last["type"], last["status"], done.returncode) == ("error", status, status)
    assert done.stderr.endswith(f"gptoss: {last['message']}\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_lines_end_with_an_error_on_a_signal(number: signal.Signals, status: int, script: Script) -> None:
    command = [sys.executable, str(SCRIPTED_PROGRAM), script(_SLOW), "ask", "--stream-json", "x"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline() + process.stdout.readline()
        process.send_signal(number)
        said += process.stdout.read()
    last = _lines(said)[-1]
    assert (process.returncode, last["type"], last["status"]) == (status, "error", status)


@pytest.mark.parametrize("arguments", [["--no-stream"], ["--json"], ["-o", "answer.txt"]])
def test_ctrl_c_leaves_nothing_of_an_answer_that_was_to_be_whole(
    arguments: list[str], script: Script, tmp_path: Path
) -> None:
    (tmp_path / "answer.txt").write_text("before")
    command = [sys.executable, str(SCRIPTED_PROGRAM), script([1.0, *_SLOW]), "ask", *arguments, "x"]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        _wait_for_start(process)
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate()
    assert (process.returncode, stdout) == (130, b"")
    assert sorted(tmp_path.glob("*.txt")) == [tmp_path / "answer.txt"]
    assert (tmp_path / "answer.txt").read_text() == "before"


def _wait_for_start(process: subprocess.Popen[bytes]) -> None:
    """Until the program has set its handlers: Linux tells which signals it catches."""
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.split("SigCgt:\t")[1].split()[0], 16)
        if caught & (1 << (signal.SIGTERM - 1)):
            return


_BLOCKS = "Look:\n```python\na\n```\n1. x\n   ~~~~ sh -e\n   b\n   ~~~\n     c\n   ~~~~\n````\n```\nd\n```\n````\n"


@pytest.mark.parametrize(
    ("language", "code"), [("", "a\n"), ("python", "a\n"), ("Python", "a\n"), ("sh", "b\n~~~\n  c\n")]
)
def test_the_first_block_of_a_language_is_extracted(language: str, code: str) -> None:
    assert code_block(_BLOCKS, language) == code


def test_a_longer_fence_holds_a_shorter_one() -> None:
    assert code_block("````\n```\nd\n```\n````\n", "") == "```\nd\n```\n"


def test_a_block_that_is_left_open_ends_with_the_answer() -> None:
    assert code_block("```\na\nb", "") == "a\nb"


@pytest.mark.parametrize(("answer", "language"), [("no code", ""), ("`a`", ""), (_BLOCKS, "rust")])
def test_an_answer_without_the_block_is_an_error(answer: str, language: str) -> None:
    with pytest.raises(GptossError, match="has no code block"):
        code_block(answer, language)


@pytest.mark.parametrize("flags", [["-x"], ["--extract"], ["-xpython"], ["--extract=python"], ["-q", "-x", "-t", "1"]])
def test_extract_takes_its_language_in_the_same_word(flags: list[str], script: Script) -> None:
    done = _ask(script(turn(_BLOCKS)), *flags)
    assert (done.returncode, done.stdout) == (0, "a\n")


def test_what_looks_like_extract_may_be_another_options_value(script: Script) -> None:
    done = _ask(script(turn("ab -x cd")), "--stop", "-x")
    assert (done.returncode, done.stdout) == (0, "ab \n")


def test_an_answer_without_code_exits_1_and_prints_nothing(script: Script) -> None:
    done = _ask(script(turn("Blue.")), "-x")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "gptoss: The answer has no code block. Ask for one, or leave --extract out.\n"


@pytest.mark.parametrize("answer", ["", "Blue.", "```\n```", "```py\n\n```"])
def test_an_answer_without_code_never_empties_a_file(answer: str, script: Script, tmp_path: Path) -> None:
    (tmp_path / "code").write_text("before")
    done = _ask(script(turn(answer)), "-x", "-o", str(tmp_path / "code"))
    assert (done.returncode, done.stdout, (tmp_path / "code").read_text()) == (1, "", "before")


@pytest.mark.parametrize("language", ["python", "py", "Python3"])
def test_a_language_is_extracted_by_any_of_its_names(language: str, script: Script) -> None:
    done = _ask(script(turn("1. Run:\n\t```py\n\tprint(1)\n\t```\n")), f"-x{language}")
    assert (done.returncode, done.stdout) == (0, "print(1)\n")


def test_output_replaces_a_file_and_keeps_its_mode_and_link(script: Script, tmp_path: Path) -> None:
    (tmp_path / "real").write_text("before")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    done = _ask(script(turn("Blue.")), "-o", str(tmp_path / "link"))
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"Blue.\n"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640
    assert {file.name for file in tmp_path.iterdir()} == {"link", "real", "turns.json"}


def test_a_new_file_has_the_usual_mode(tmp_path: Path) -> None:
    replace_file(tmp_path / "new", "Blue.")
    (tmp_path / "usual").touch()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_output_may_be_a_device_or_stdout(script: Script) -> None:
    assert _ask(script(turn("Blue.")), "-o", "/dev/null").returncode == 0
    assert _ask(script(turn("Blue.")), "-o", "-").stdout == "Blue.\n"


def test_a_full_disk_leaves_the_file_that_was_there(script: Script) -> None:
    done = _ask(script(turn("Blue.")), "-o", "/dev/full")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (6, "", 1)


@pytest.mark.parametrize("name", [".", "absent/file"])
def test_a_file_that_cannot_be_written_is_refused_before_the_model_is_asked(name: str, script: Script) -> None:
    done = _ask(script(), "-o", name)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
@pytest.mark.parametrize("arguments", ["", "--json", "--stream-json", "--no-stream"])
def test_stdout_that_cannot_be_written_exits_1(redirection: str, arguments: str, script: Script) -> None:
    command = [sys.executable, str(SCRIPTED_PROGRAM), script(turn("Blue.")), "ask", *arguments.split(), "x"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *command],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "stdout cannot be written" in done.stderr


def test_a_timeout_cuts_the_answer_short(script: Script) -> None:
    done = _ask(script(["<|channel|>final<|message|>one", *(0.05, " two") * 200]), "--timeout", "1.5")
    assert done.returncode == 7
    assert done.stdout.startswith("one")
    assert done.stderr == "gptoss: The answer is cut short: the 1.5 seconds of --timeout ran out.\n"


def test_the_answer_ends_before_a_stop_text_and_is_whole(script: Script) -> None:
    done = _ask(script(turn("one two END three")), "--json", "--stop", "nothing", "--stop", " END")
    told = json.loads(done.stdout)
    assert (done.returncode, told["answer"], told["ended"]) == (0, "one two", "stop text")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "--stream-json"],
        ["--stream-json", "-o", "x"],
        ["-x", "--json"],
        ["--efforts", "low", "-x"],
        ["--efforts", "low", "--stop", "a"],
        ["--stop", ""],
    ],
)
def test_options_that_contradict_each_other_exit_2(arguments: list[str], script: Script) -> None:
    done = _ask(script(), *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stdout == "" or "--stream-json" in arguments


def test_two_answers_are_one_with_a_newline_between_them(script: Script) -> None:
    two = "<|channel|>final<|message|>one<|end|><|start|>assistant<|channel|>final<|message|>two<|return|>"
    path = script([two])
    assert _ask(path, "--free-headers").stdout == _ask(path, "--free-headers", "--no-stream").stdout == "one\ntwo\n"
    assert json.loads(_ask(path, "--free-headers", "--json").stdout)["answer"] == "one\ntwo"


def test_a_reader_that_leaves_ends_json_lines_silently(script: Script) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, str(SCRIPTED_PROGRAM), script(turn("Blue.")), "ask", "--stream-json", "x"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("schema", "choice"),
    [
        ("{", None),
        ("absent.json", None),
        ('{"type": "strang"}', None),
        ('{"type": "string", "pattern": "("}', None),
        ("{" * 100_000, None),
        ('{"enum": ["\\ud800"]}', None),
        (None, ""),
        (None, "a,,b"),
    ],
)
def test_an_invalid_format_is_a_usage_error(schema: str | None, choice: str | None) -> None:
    with pytest.raises(UsageError):
        output_format(schema, choice, Streams().console)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ('{"not": {}}', '--schema uses "not", which is not supported.'),
        ('{"$ref": "#"}', "--schema refers to itself without an end, so no answer could match it."),
        ('{"a": 1}', '--schema has no keyword of JSON Schema, such as "type" or "properties".'),
        ('{"items": ' * 200 + "{}" + "}" * 200, "--schema is nested too deeply: at most 120 levels are supported."),
        ('{"items": ' * 9_999 + "{}" + "}" * 9_999, "--schema is nested too deeply: at most 120 levels are supported."),
    ],
)
def test_a_schema_that_is_not_supported_is_explained(schema: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        output_format(schema, None, Streams().console)
    assert str(caught.value) == words


def test_an_unknown_format_in_a_schema_is_a_notice() -> None:
    streams = Streams()
    assert output_format('{"type": "string", "format": "binary"}', None, streams.console) is not None
    assert streams.err == '--schema has the format "binary", which is unknown and ignored.\n'


def test_a_schema_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"type": "integer"}')
    output = output_format(str(tmp_path / "schema.json"), None, Streams().console)
    assert output is not None
    assert output.accepts("12")
    assert not output.accepts("12.5")
