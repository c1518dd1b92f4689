"""`gptoss ask --efforts`: one question, several answers side by side."""

import json
import signal
import subprocess
from typing import Any

import pytest

from gptoss_cli.chat.session import ChatSession
from gptoss_cli.cli.efforts import parse_efforts
from gptoss_cli.errors import UsageError
from gptoss_cli.settings import ReasoningEffort
from tests.cli.conftest import Script, ask_here, turn
from tests.cli.terminal_driver import ForkedTerminal

_TURNS = [turn("Blue.", reasoning="Light."), turn("Very \x1b[2J[bold]blue.", reasoning="Light scatters. " * 20)]
_PLAIN = ["Just blue.<|return|>"]


def _ask(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ask_here(script, *arguments, "Sky?")


def test_efforts_are_taken_in_order_and_once() -> None:
    named = parse_efforts("high, low,HIGH,none")
    assert named == [ReasoningEffort.HIGH, ReasoningEffort.LOW, ReasoningEffort.NONE]


@pytest.mark.parametrize("value", ["", "low,", "low;high", "hgh"])
def test_an_effort_nobody_knows_is_a_usage_error(value: str) -> None:
    with pytest.raises(UsageError, match="There is no effort"):
        parse_efforts(value)


def test_a_pipe_gets_one_json_object(script: Script) -> None:
    done = _ask(script(*_TURNS, _PLAIN), "--efforts", "low,high,none")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told["version"], told["question"]) == (1, "Sky?")
    low, high, none = told["answers"]
    assert [answer["effort"] for answer in told["answers"]] == ["low", "high", "none"]
    assert (low["answer"], low["reasoning"], low["ended"], low["cuts"]) == ("Blue.", "Light.", "complete", [])
    assert high["answer"] == "Very \x1b[2J[bold]blue."
    assert (none["answer"], none["reasoning_tokens"]) == ("Just blue.", 0)
    assert 0 < low["reasoning_tokens"] < high["reasoning_tokens"]
    assert low["seed"] == high["seed"] == none["seed"]
    assert all(answer["seconds"] >= answer["first_token_seconds"] >= 0 for answer in told["answers"])


def test_every_answer_is_to_the_question_alone(script: Script) -> None:
    told = json.loads(_ask(script(*_TURNS), "--efforts", "low,high").stdout)
    first, second = (answer["prompt_tokens"] for answer in told["answers"])
    assert first == second


def test_what_was_done_to_the_reasoning_is_told(script: Script) -> None:
    endless = ["<|channel|>analysis<|message|>" + " ".join(str(n * n) for n in range(200)) + "<|return|>"]
    done = _ask(script(endless, turn("Blue.")), "--efforts", "high,low", "--think-budget", "30")
    cut, whole = json.loads(done.stdout)["answers"]
    assert cut["cuts"] == [{"cut": "budget", "reasoning_tokens": 29}]
    assert cut["reasoning_tokens"] == 30
    assert whole["cuts"] == []
    assert done.returncode == 0


def test_an_answer_that_is_not_whole_decides_the_exit_status(script: Script) -> None:
    long = turn("one two three four five six seven eight nine ten eleven twelve")
    done = _ask(script(turn("Blue."), long), "--efforts", "low,high", "--max-tokens", "10")
    assert done.returncode == 7
    assert [answer["ended"] for answer in json.loads(done.stdout)["answers"]] == ["complete", "token limit"]


@pytest.mark.parametrize("method", ["turn", "set_effort"])
def test_ctrl_c_beside_a_turn_keeps_the_answers_so_far(
    method: str, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments)

    original = getattr(ChatSession, method)
    monkeypatch.setattr(ChatSession, method, interrupted)
    done = _ask(script(turn("Blue."), turn("Never."), turn("Never.")), "--efforts", "low,high,none")
    first, *others = json.loads(done.stdout)["answers"]
    assert (done.returncode, first["answer"]) == (130, "Blue.")
    assert [(each["answer"], each["ended"]) for each in others] == [("", "interrupted")] * (method == "turn")


def test_a_terminal_gets_a_table_that_cannot_control_it(script: Script) -> None:
    with ForkedTerminal("ask", "--efforts", "low,high", "Sky?", script=script(*_TURNS)) as terminal:
        assert terminal.wait() == 0
        rows = terminal.text.splitlines()
    heading = next(row for row in rows if "low" in row)
    assert heading.index("low") < heading.index("high")
    answers = next(row for row in rows if "Blue." in row)
    assert "Very ␛[2J[bold]blue." in answers
    assert any("tokens of reasoning" in row for row in rows)
    assert any(row.count(" s ") == 2 for row in rows)


def test_ctrl_c_shows_what_was_answered_so_far(script: Script) -> None:
    pause: list[str | float] = [0.1, " two"]
    turns = script(turn("Blue."), ["<|channel|>final<|message|>one", *pause * 300], turn("Never."))
    with ForkedTerminal("ask", "--efforts", "low,high,none", "Sky?", script=turns) as terminal:
        terminal.wait_for("Effort high")
        terminal.type("\x03")
        assert terminal.wait() == 130
        rows = terminal.text.splitlines()
    assert any("Blue." in row and "one two" in row for row in rows)
    assert not any("Never." in row for row in rows)


def test_one_effort_beside_several_is_refused_but_not_that_of_the_settings(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = _ask(script(*_TURNS), "--efforts", "low,high", "-e", "low")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "gptoss: --effort and --efforts do not go together. Leave one of them out.\n"
    monkeypatch.setenv("GPTOSS_EFFORT", "high")
    assert _ask(script(*_TURNS), "--efforts", "low,high").returncode == 0
