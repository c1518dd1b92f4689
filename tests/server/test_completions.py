"""Completions take and return ids as vLLM does, and their text is the decoded bytes."""

from typing import Any

import pytest

from gptoss_cli.harmony.vocabulary import CALL, RETURN, STOP_IDS, load_encoding
from gptoss_cli.server.completions import CompletionJob, read_completion
from gptoss_cli.server.exchange import Exchange
from gptoss_cli.server.failures import ApiError
from gptoss_cli.server.job import OneSequence
from tests.random_generator import RandomGenerator
from tests.server.turns import SERVED, body, data, ids_of, run, streamed

PROMPT = ids_of("<|start|>user<|message|>Hi<|end|><|start|>assistant")
TURN = ids_of("<|channel|>final<|message|>Grüße 🙂 🎈!<|return|>")


def read(**fields: Any) -> Exchange:
    return read_completion(body(**({"prompt": PROMPT, "max_tokens": 100} | fields)), SERVED)


def job(**fields: Any) -> CompletionJob:
    made = read(**fields).job
    assert isinstance(made, CompletionJob)
    return made


def whole(**fields: Any) -> dict[str, Any]:
    exchange = read(**fields)
    for event in run(exchange, TURN):
        exchange.writer.feed(event)
    return exchange.writer.result()


def test_ids_go_in_and_come_out() -> None:
    (choice,) = whole(return_token_ids=True)["choices"]
    assert choice["prompt_token_ids"] == PROMPT
    assert choice["token_ids"] == TURN
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", RETURN)
    assert choice["text"] == "finalGrüße 🙂 🎈!"


def test_without_being_asked_no_ids_are_returned() -> None:
    assert "token_ids" not in whole()["choices"][0]


def test_special_tokens_are_in_the_text_if_they_are_wanted() -> None:
    text = whole(skip_special_tokens=False)["choices"][0]["text"]
    assert text == load_encoding().decode(TURN)


@pytest.mark.parametrize("count", range(1, len(TURN) + 1))
def test_a_stream_that_ends_anywhere_adds_up_to_the_whole(count: int) -> None:
    fields = {"max_tokens": count, "return_token_ids": True, "stream_options": {"include_usage": True}}
    *chunks, last = data(streamed(read(**fields), TURN))
    choices = [chunk["choices"][0] for chunk in chunks]
    (choice,) = whole(**fields)["choices"]
    assert "".join(each["text"] for each in choices) == choice["text"]
    assert [id_ for each in choices for id_ in each["token_ids"]] == choice["token_ids"] == TURN[:count]
    assert choices[0]["prompt_token_ids"] == PROMPT
    assert choices[-1]["finish_reason"] == choice["finish_reason"] == ("length" if count < len(TURN) else "stop")
    assert last["usage"]["completion_tokens"] == count


def test_max_tokens_is_16_as_everywhere() -> None:
    assert read_completion(body(prompt="Hi"), SERVED).job.max_tokens == 16  # type: ignore[attr-defined]


def test_text_is_a_prompt_with_special_tokens() -> None:
    for prompt in (load_encoding().decode(PROMPT), [load_encoding().decode(PROMPT)], [PROMPT], PROMPT):
        assert job(prompt=prompt).prompt == PROMPT


def test_a_long_word_is_a_prompt() -> None:
    assert len(job(prompt="x" * 300_000 + "<|end|>\ud800<|no_token|>").prompt) > 1_000


def test_ids_that_stop_or_are_banned_or_allowed_are_passed_on() -> None:
    made = job(stop_token_ids=[7], logit_bias={"9": -100}, allowed_token_ids=[1, 2], seed=5, temperature=0, top_k=-1)
    assert made.stop_ids == STOP_IDS | {7}
    assert (set(made.banned_ids), set(made.allowed_ids)) == ({9}, {1, 2})
    assert (made.sampling.seed, made.sampling.temperature, made.sampling.top_k) == (5, 0, None)
    assert CALL in made.stop_ids


def test_only_allowed_ids_are_drawn() -> None:
    generator = RandomGenerator()
    made = job(allowed_token_ids=[11, 12], max_tokens=30)
    list(made.run(OneSequence(generator), lambda stop: None))
    assert set(generator.drawn) == {11, 12}


def test_log_probabilities_are_in_the_old_form() -> None:
    logprobs = whole(logprobs=2)["choices"][0]["logprobs"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == len(TURN)
    assert all(len(top) <= 2 for top in logprobs["top_logprobs"])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [PROMPT, PROMPT]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [201_088]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"logit_bias": {"x": -100}}, "logit_bias"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"echo": True}, "echo"),
        ({"n": 2}, "n"),
        ({"stop": ["x"]}, "stop"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read(**fields)
    assert caught.value.param == param
