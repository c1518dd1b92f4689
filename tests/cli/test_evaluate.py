"""`gptoss evaluate`: judging, figures, and a file of results that survives any end. Golden screens: GOLDEN=write."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_cli.cli.evaluate import figure_lines
from gptoss_cli.cli.evaluation import Answered, Question, figures_of, read_questions, wilson_interval
from gptoss_cli.errors import ExitStatus, UsageError
from gptoss_cli.settings import ReasoningEffort
from gptoss_cli.terminal.architecture_table import show_lines
from gptoss_cli.terminal.cells import cells, text_of
from gptoss_cli.terminal.plot import Point, plot_lines
from tests.cli.conftest import Run, Script, turn
from tests.cli.emulated_console import run_on_screen
from tests.cli.scripted_program import scripted_opener
from tests.cli.terminal_driver import SCRIPTED_PROGRAM

_GOLDEN = Path(__file__).parents[1] / "golden"


def _file(folder: Path, *lines: Any) -> Path:
    file = folder / "questions.jsonl"
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), "utf-8")
    return file


def _evaluate(run: Run, script: str, file: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    status, out, err = run("evaluate", str(file), "-m", "x", *arguments, open_model=scripted_opener(script))
    values: dict[str, Any] = json.loads(out) if out else {}
    if out:
        schema = json.loads((resources.files("gptoss_cli.cli") / "schemas/evaluate.json").read_text("utf-8"))
        jsonschema.validate(values, schema)
    return status, values, err


@pytest.mark.parametrize(
    ("expected", "right", "wrong"),
    [
        ({"answer": "Blue."}, [" Blue.\n"], ["blue.", "It is Blue."]),
        ({"number": 12}, ["So 3 * 4 = 12.", "**12**", "12.0", "the range 3-12"], ["12 or 13", "-12", "none", "1212"]),
        ({"number": -1234.5}, ["-1,234.5", "\u22121234.5 m", "it is -1.2345e3"], ["1,234.5", "-1,234"]),
        ({"number": 3.14159, "tolerance": 0.01}, ["3.14", "3.15"], ["3.2"]),
        ({"number": 0}, ["0", "0.0"], ["0.001", ""]),
        ({"choice": "B", "choices": ["A", "B"]}, ["b", "Not A but (B)."], ["B, no: A", "Bed", ""]),
        ({"choice": "not sure", "choices": ["sure", "not sure"]}, ["I am not sure."], ["I am sure."]),
        ({"pattern": r"\b4[0-9]\b"}, ["it is 42"], ["142"]),
        ({"command": "grep -q blue"}, ["a blue sky"], ["a red sky"]),
    ],
)
def test_answers_are_judged(expected: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    question = Question("?", expected)
    assert [answer for answer in right if not question.accepts(answer)] == []
    assert [answer for answer in wrong if question.accepts(answer)] == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "it is not JSON"),
        ("[1]", "not a JSON object"),
        ({"question": "?"}, "exactly one of"),
        ({"question": "?", "answer": "a", "number": 1}, "exactly one of"),
        ({"question": " ", "answer": "a"}, "'question'"),
        ({"answer": "a"}, "'question'"),
        ({"question": "?", "answr": "a"}, "no key 'answr'"),
        ({"question": "?", "number": "4"}, "'number'"),
        ({"question": "?", "number": True}, "'number'"),
        ('{"question": "?", "number": NaN}', "'number'"),
        ('{"question": "?", "number": 1' + "0" * 400 + "}", "int too large"),
        ({"question": "?", "answer": "4", "tolerance": 1}, "'tolerance'"),
        ({"question": "?", "choice": "A"}, "go together"),
        ({"question": "?", "choice": "A", "choices": ["B"]}, "one of 'choices'"),
        ({"question": "?", "choice": "A", "choices": "AB"}, "list of texts"),
        ({"question": "?", "pattern": "("}, "not a regular expression"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(line: Any, words: str, tmp_path: Path) -> None:
    file = _file(tmp_path, {"question": "?", "answer": "a"}, "", line)
    with pytest.raises(UsageError, match="line 3: ") as raised:
        read_questions(file)
    assert words in str(raised.value)


@given(st.binary(max_size=60))
def test_no_bytes_of_a_file_are_an_error_of_the_program(data: bytes) -> None:
    file = Path(os.environ["GPTOSS_HOME"]) / "random.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    with pytest.raises(UsageError):
        read_questions(file)


def test_a_file_without_questions_is_a_usage_error_before_the_model_is_opened(tmp_path: Path, run: Run) -> None:
    assert run("evaluate", str(_file(tmp_path)))[0] == ExitStatus.USAGE
    assert run("evaluate", str(tmp_path / "absent"))[0] == ExitStatus.USAGE


def test_one_effort_is_refused_with_the_option_that_measures_it(tmp_path: Path, run: Run) -> None:
    status, _, err = run("evaluate", str(_file(tmp_path, {"question": "2+2?", "number": 4})), "-e", "high")
    assert status == ExitStatus.USAGE
    assert "To measure an effort: --efforts high" in err


# Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilsons(correct: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(correct, count) == pytest.approx((low, high), abs=5.1e-5)


def test_accuracy_tokens_and_seconds_are_counted_by_effort(tmp_path: Path, run: Run, script: Script) -> None:
    file = _file(tmp_path, {"question": "2+2?", "number": 4}, {"question": "3+3?", "number": 6})
    played = script(turn("4"), turn("4", reasoning="2, 3, 4."), turn("5"), turn("6", reasoning="3, 6."))
    status, values, err = _evaluate(run, played, file, "--efforts", "low,high", "--json")
    assert (status, err) == (0, "")
    low, high = values["efforts"]
    assert (low["effort"], low["answers"], low["correct"], low["accuracy"]) == ("low", 2, 1, 0.5)
    assert (high["effort"], high["correct"]) == ("high", 2)
    assert low["mean_tokens"] < high["mean_tokens"]
    kept = [json.loads(line) for line in Path(values["results"]).read_text("utf-8").splitlines()]
    assert sorted(kept, key=str) == sorted(values["answers"], key=str)
    assert Path(values["results"]) == tmp_path / "questions.jsonl.results.jsonl"
    assert len({answer["seed"] for answer in kept}) == 2  # the same for both efforts


def test_a_second_run_asks_only_what_is_new(tmp_path: Path, run: Run, script: Script) -> None:
    file = _file(tmp_path, {"question": "2+2?", "number": 4})
    assert _evaluate(run, script(turn("4")), file, "--efforts", "low", "--json")[0] == 0
    nothing = script()
    again = _evaluate(run, nothing, file, "--efforts", "low", "--json")
    assert (again[0], again[1]["efforts"][0]["answers"]) == (0, 1)
    more = _evaluate(run, script(turn("5"), turn("4")), file, "--efforts", "low", "--repeat", "3", "--json")[1]
    assert (more["efforts"][0]["answers"], more["efforts"][0]["correct"]) == (3, 2)
    _file(tmp_path, {"question": "2+2?", "number": 5})
    other = _evaluate(run, script(turn("5")), file, "--efforts", "low", "--json")[1]
    assert (other["efforts"][0]["answers"], other["efforts"][0]["correct"]) == (1, 1)
    hot = _evaluate(run, script(turn("6")), file, "--efforts", "low", "-t", "2", "--json")[1]
    assert hot["efforts"][0]["correct"] == 0


def test_a_torn_last_line_is_asked_again_and_another_wrong_line_is_named(
    tmp_path: Path, run: Run, script: Script
) -> None:
    file = _file(tmp_path, {"question": "2+2?", "number": 4}, {"question": "3+3?", "number": 6})
    results = tmp_path / "kept"
    arguments = "--efforts", "low", "--json", "-o", str(results)
    assert _evaluate(run, script(turn("4"), turn("6")), file, *arguments)[0] == 0
    whole = results.read_bytes()
    results.write_bytes(whole[:-20])
    assert _evaluate(run, script(turn("6")), file, *arguments)[1]["efforts"][0]["correct"] == 2
    assert results.read_bytes().count(b"\n") == 2
    results.write_bytes(b"{}\n" + whole)
    status, _, err = _evaluate(run, script(), file, *arguments)
    assert (status, "kept, line 1" in err) == (ExitStatus.USAGE, True)


@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_asks_nothing_twice(kills: int, tmp_path: Path, script: Script) -> None:
    file = _file(tmp_path, *({"question": f"{n}+1?", "number": n + 1} for n in range(8)))
    results = tmp_path / "questions.jsonl.results.jsonl"
    played = script(*([0.08, *turn("4")] for _ in range(24)))
    command = [sys.executable, str(SCRIPTED_PROGRAM), played, "evaluate", str(file), "-m", "x", "--json"]
    randomness = random.Random(5)
    before = b""
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            if results.exists() and results.stat().st_size > len(before):
                break
            time.sleep(0.01)
        time.sleep(randomness.uniform(0, 0.3))
        process.kill()
        process.wait()
        now = results.read_bytes()
        assert now.startswith(before[: before.rfind(b"\n") + 1])
        before = now
    done = subprocess.run(command, capture_output=True, check=True)
    lines = results.read_text("utf-8").splitlines()
    assert len(lines) == len({json.loads(line)["key"] for line in lines}) == 24
    assert [effort["answers"] for effort in json.loads(done.stdout)["efforts"]] == [8, 8, 8]


def test_ctrl_c_writes_what_there_is_and_exits_130(tmp_path: Path, script: Script) -> None:
    file = _file(tmp_path, {"question": "2+2?", "number": 4}, {"question": "3+3?", "number": 6})
    slow = ["<|channel|>final<|message|>6", *[0.1, " 6"] * 300]
    command = [sys.executable, str(SCRIPTED_PROGRAM), script(turn("4"), slow), "evaluate", str(file), "-m", "x"]
    results = tmp_path / "questions.jsonl.results.jsonl"
    process = subprocess.Popen([*command, "--efforts", "low"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (results.exists() and results.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == ExitStatus.INTERRUPTED
    assert json.loads(out)["efforts"][0]["answers"] == 1
    assert b"the same command goes on" in err


def _answers(effort: ReasoningEffort, correct: int, count: int, tokens: int) -> list[Answered]:
    def answer(number: int) -> Answered:
        return Answered(
            key=f"{effort} {number}",
            question="?",
            effort=effort,
            repetition=0,
            model="x",
            seed=1,
            correct=number < correct,
            answer="4",
            ended="complete",
            reasoning_tokens=tokens - 10,
            answer_tokens=10,
            seconds=tokens / 20,
        )

    return [answer(number) for number in range(count)]


def test_the_table_and_the_plots_look_as_they_did() -> None:
    figures = [
        figures_of(effort, _answers(effort, correct, 40, tokens))
        for effort, correct, tokens in (
            (ReasoningEffort.LOW, 22, 90),
            (ReasoningEffort.MEDIUM, 31, 412),
            (ReasoningEffort.HIGH, 37, 2_380),
        )
    ]
    terminal = run_on_screen(
        lambda console: show_lines(figure_lines(figures, console.stdout.columns, repeat=1), console),
        columns=80,
        rows=30,
        environment={"NO_COLOR": "1"},
    )
    golden = _GOLDEN / "evaluate-80.txt"
    shown = "\n".join(line.rstrip() for line in terminal.screen.display).rstrip() + "\n"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(shown, "utf-8")
    assert shown == golden.read_text("utf-8")


@given(
    st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4),
    st.integers(20, 120),
)
def test_a_plot_is_as_wide_as_the_terminal_at_most_and_has_every_mark(
    values: list[tuple[float, float, float]], columns: int
) -> None:
    points = [
        Point(mark, x, (low + high) / 2, min(low, high), max(low, high))
        for mark, (x, low, high) in zip("LMHN", values, strict=False)
    ]
    lines = [text_of(line) for line in plot_lines("accuracy", "tokens", points, columns)]
    assert all(cells(line) <= columns for line in lines[1:])
    drawn = "".join(line[6:] for line in lines[1:-2])
    assert {point.mark for point in points} <= set(drawn)


@pytest.mark.parametrize(("moment", "kept"), [("before the turn", 0), ("after the turn", 1)])
def test_an_interrupt_just_beside_a_turn_stops_the_evaluation(
    moment: str, kept: int, run: Run, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def stopping(stop: Callable[[], None]) -> Iterator[None]:
        if moment == "before the turn":
            stop()
        yield
        if moment == "after the turn":
            stop()

    monkeypatch.setattr("gptoss_cli.cli.evaluate.stopping", stopping)
    file = _file(tmp_path, {"question": "Sky?", "answer": "Blue."})
    status, values, err = _evaluate(run, script(turn("Blue.")), file, "--repeat", "5", "--json")
    assert (status, len(values["answers"])) == (ExitStatus.INTERRUPTED, kept)
    assert "Stopped." in err


def test_an_interrupt_while_a_command_judges_keeps_the_answers_before_it(
    run: Run, script: Script, tmp_path: Path
) -> None:
    lines = (
        {"question": "Sky?", "answer": "Blue."},
        {"question": "Sea?", "command": f"kill -INT {os.getpid()}; sleep 9"},
    )
    status, values, err = _evaluate(
        run, script(turn("Blue."), turn("Grey.")), _file(tmp_path, *lines), "--efforts", "low", "--json"
    )
    assert (status, [answer["question"] for answer in values["answers"]]) == (ExitStatus.INTERRUPTED, ["Sky?"])
    assert "Stopped." in err
