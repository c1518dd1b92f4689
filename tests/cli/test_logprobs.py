"""`gptoss ask --logprobs`: the tokens of a turn in JSON, with the names of OpenAI's API."""

import json
import math
from importlib import resources
from typing import Any

import jsonschema
import pytest

from gptoss_cli.errors import ExitStatus
from tests.cli.conftest import Run, Script, ask_here, turn

# The emoji and the Chinese characters take several tokens each, which end within a character.
_ANSWER = "Blue 🫠🧑‍🚀 as 鱻龘 the\tsky…"


def _check(values: Any, schema: str) -> None:
    jsonschema.validate(values, json.loads((resources.files("gptoss_cli.cli") / "schemas" / schema).read_text("utf-8")))


def _tokens(script: str, *arguments: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    done = ask_here(script, "--json", *arguments, "Sky?")
    assert (done.returncode, done.stderr) == (0, "")
    values = json.loads(done.stdout)
    _check(values, "ask.json")
    return values, values["tokens"]


def _joined(tokens: list[dict[str, Any]], channel: str) -> str:
    return b"".join(bytes(token["bytes"]) for token in tokens if token["channel"] == channel).decode()


def test_the_bytes_of_the_tokens_are_those_of_the_answer(script: Script) -> None:
    values, tokens = _tokens(script(turn(_ANSWER, reasoning="Hm, 鱻.")), "--logprobs", "3")
    assert _joined(tokens, "final") == values["answer"] == _ANSWER
    assert _joined(tokens, "analysis") == values["reasoning"]
    assert any(token["token"] == "\ufffd" for token in tokens)
    assert [token["token"] for token in tokens if token["token"].startswith("<|")] == [
        *("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|channel|>", "<|message|>", "<|return|>"),
    ]
    assert len(tokens) == values["reasoning_tokens"] + values["answer_tokens"]


def test_alternatives_have_the_likeliest_first(script: Script) -> None:
    _, tokens = _tokens(script(turn("Blue.")), "--logprobs", "3")
    for token in tokens:
        best = token["top_logprobs"]
        assert [entry["logprob"] for entry in best] == sorted((entry["logprob"] for entry in best), reverse=True)
        assert best[token["rank"] - 1]["id"] == token["id"]
        assert sum(math.exp(entry["logprob"]) for entry in best) <= 1


def test_zero_alternatives_leave_the_tokens_alone(script: Script) -> None:
    _, tokens = _tokens(script(turn("Blue.")), "--logprobs", "0")
    assert tokens
    assert all(token["top_logprobs"] == [] for token in tokens)


def test_forced_tokens_are_marked(script: Script) -> None:
    long = ["<|channel|>analysis<|message|>" + " ".join(map(str, range(60))) + "<|return|>"]
    _, tokens = _tokens(script(long), "--logprobs", "1", "--think-budget", "20", "--quiet")
    forced = "".join(token["token"] for token in tokens if token["forced"])
    assert "<|end|><|start|>assistant<|channel|>final<|message|>" in forced


def test_lines_have_a_token_before_the_text_that_it_completes(script: Script) -> None:
    done = ask_here(script(turn(_ANSWER, reasoning="Hm.")), "--stream-json", "--logprobs", "2", "Sky?")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for line in lines:
        _check(line, "ask-lines.json")
    tokens = [line for line in lines if line["type"] == "token"]
    assert _joined(tokens, "final") == _ANSWER
    first = next(i for i, line in enumerate(lines) if line["type"] == "answer")
    assert (lines[first - 1]["type"], lines[first - 1]["token"]) == ("token", lines[first]["text"])


@pytest.mark.parametrize("form", ["--json", "--stream-json"])
def test_hidden_reasoning_has_no_tokens_either(script: Script, form: str) -> None:
    done = ask_here(script(turn("Blue.", reasoning="Secret.")), form, "--logprobs", "2", "--reasoning", "hide", "Sky?")
    assert '"Blue"' in done.stdout
    assert "Sec" not in done.stdout


def test_without_the_option_there_are_no_tokens(script: Script) -> None:
    for form in ("--json", "--stream-json"):
        assert "top_logprobs" not in ask_here(script(turn("Blue.")), form, "Sky?").stdout


@pytest.mark.parametrize(
    "arguments",
    [["--logprobs", "3"], ["--logprobs", "21", "--json"], ["--logprobs", "3", "--json", "--efforts", "low"]],
)
def test_what_does_not_go_together_is_a_usage_error(script: Script, arguments: list[str]) -> None:
    done = ask_here(script(turn("Blue.")), *arguments, "Sky?")
    assert (done.returncode, done.stdout) == (ExitStatus.USAGE, "")
    assert "--logprobs" in done.stderr


def test_the_demo_has_the_same_answer_with_and_without_log_probabilities(run: Run) -> None:
    arguments = ["ask", "-m", "demo", "--json", "--seed", "4", "What is gptoss?"]
    plain = json.loads(run(*arguments)[1])
    values = json.loads(run(*arguments, "--logprobs", "5")[1])
    assert values["answer"] == plain["answer"] == _joined(values["tokens"], "final")
    assert all(entry["logprob"] <= 1e-6 for token in values["tokens"] for entry in token["top_logprobs"])
