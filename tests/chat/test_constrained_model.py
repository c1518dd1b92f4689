"""A real engine is steered: whatever its weights and however hot it is sampled, its turns are well formed."""

import datetime
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gptoss_cli.chat.session import ChatSession
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.demo import unpack
from gptoss_cli.engine.generator import Generator
from gptoss_cli.harmony.events import Cut, EndReason, ReasoningDelta
from gptoss_cli.harmony.structured_output import OutputFormat
from gptoss_cli.harmony.vocabulary import ANSWER_NOW, VOCABULARY_SIZE
from gptoss_cli.settings import Dtype, ReasoningEffort
from tests.engine.checkpoints import (
    FULL,
    SLIDING,
    Shape,
    bf16,
    config_json,
    random_tensors,
    write_checkpoint,
    write_config,
    write_safetensors,
)
from tests.engine.open_generator import open_generator

_HEADER = r"<\|channel\|>(analysis|commentary|final)<\|message\|>"
_MARKS = r"<\|(start|channel|message|constrain|end|return|call|endoftext)\|>"
_CONTENT = rf"(?:(?!{_MARKS}).)*"
_ENDED = rf"<\|channel\|>final<\|message\|>{_CONTENT}(<\|end\|>)?<\|(return|endoftext)\|>"
_CUT = rf"{_HEADER}{_CONTENT}(<\|end\|>(<\|start\|>)?)?|<\|channel\|>\w*|"
_TURN = re.compile(rf"({_HEADER}{_CONTENT}<\|end\|><\|start\|>assistant)*({_ENDED}|{_CUT})", re.DOTALL)
_DEMO_DATA = Path(unpack.__file__).parent / "data" / "demo.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = Shape(hidden=32, intermediate=96, vocabulary=201_088, layer_types=(SLIDING, FULL))
    return write_checkpoint(tmp_path_factory.mktemp("random") / "checkpoint", shape)


@pytest.fixture
def generator(folder: Path) -> Generator:
    return open_generator(folder, dtype=Dtype.FLOAT32, context_tokens=2_000)


def open_session(
    generator: Generator, *, temperature: float, seed: int, max_tokens: int, think_budget: int | None = None
) -> ChatSession:
    return ChatSession(
        generator,
        instructions=None,
        effort=ReasoningEffort.LOW,
        date=datetime.date(2025, 8, 5),
        settings=TurnSettings(temperature=temperature, seed=seed, max_tokens=max_tokens, think_budget=think_budget),
    )


def check_hot_turns(generator: Generator, count: int) -> None:
    """`count` turns at temperature 5; every other one has a budget, so that it comes to a second header."""
    for seed in range(count):
        session = open_session(generator, temperature=5.0, seed=seed, max_tokens=24, think_budget=seed % 2 * 10 or None)
        list(session.turn(f"Question {seed % 10}"))
        assert session.last_end is not None
        assert session.last_end.reason in (EndReason.COMPLETE, EndReason.TOKEN_LIMIT)
        assert _TURN.fullmatch(session.last_raw), session.last_raw
        assert session.last_raw.startswith("<|channel|>")


def test_a_random_model_at_temperature_5_writes_well_formed_turns(generator: Generator) -> None:
    check_hot_turns(generator, 12)


@pytest.mark.slow
@pytest.mark.skipif(not _DEMO_DATA.exists(), reason="the demo model is not in this copy")
def test_the_demo_model_at_temperature_5_writes_two_thousand_well_formed_turns() -> None:
    check_hot_turns(open_generator(unpack.demo_checkpoint(), context_tokens=2_000), 2_000)


def test_what_answer_now_forces_is_in_the_cache_and_little_is_read_after_it(generator: Generator) -> None:
    session = open_session(generator, temperature=1.0, seed=1, max_tokens=30)
    said = 0
    for event in session.turn("Hi"):
        said += isinstance(event, ReasoningDelta)
        if said == 5:
            session.answer_now()
    assert session.last_end is not None
    assert [cut.cut for cut in session.last_end.cuts] == [Cut.ANSWER_NOW]
    thought = session.last_end.cuts[0].reasoning_tokens
    prompt = session.last_end.prompt_tokens
    assert tuple(generator.sequence.cached[prompt + thought :][:6]) == ANSWER_NOW
    assert len(generator.sequence.cached) >= prompt + 29
    list(session.turn("And?"))
    # The reasoning is gone from the prompt; the answer and the new message are what is left to read.
    assert session.last_end.prefilled_tokens == session.last_end.prompt_tokens - prompt


@pytest.mark.parametrize("choices", [(), ("yes", "no")])
@pytest.mark.parametrize("free_headers", [False, True])
def test_likely_rows_after_the_vocabulary_are_never_drawn(
    choices: tuple[str, ...], free_headers: bool, padded: Path
) -> None:
    session = open_session(open_generator(padded, context_tokens=2_000), temperature=1.0, seed=1, max_tokens=60)
    output = OutputFormat.of_choices(choices) if choices else None
    session.settings = replace(session.settings, output=output, free_headers=free_headers, think_budget=10)
    list(session.turn("Hi"))
    assert session.last_turn is not None
    assert len(session.last_turn.ids) > 5
    assert max(session.last_turn.ids) < VOCABULARY_SIZE


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint with 64 rows after the vocabulary, each of which is likelier than any other or its negative.

    Their logits are large: whatever the hidden state is, one row of each pair has a positive product with it.
    """
    shape = Shape(hidden=32, intermediate=96, vocabulary=VOCABULARY_SIZE + 64, layer_types=(SLIDING, FULL))
    folder = tmp_path_factory.mktemp("padded") / "checkpoint"
    folder.mkdir()
    tensors = random_tensors(shape, 0)
    rows = np.random.default_rng(1).normal(0, 100, (32, 32))
    tensors["lm_head.weight"][VOCABULARY_SIZE:] = bf16(np.concatenate([rows, -rows]))
    write_config(folder, config_json(shape))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder
