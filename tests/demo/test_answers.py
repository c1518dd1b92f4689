"""The demo model answers questions that its training left out.

`held_out.json` holds 60 questions in 51 conversations, drawn at random from all that were held out, without regard to
the answers. A conversation is a list of messages, each with the fact that a right answer contains. In the last three
conversations the user begins with two statements about themselves, which are not counted as questions.
"""

import datetime
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gptoss_cli.chat.session import ChatSession
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.demo.unpack import demo_checkpoint
from gptoss_cli.engine.generator import Generator
from gptoss_cli.harmony.events import AnswerDelta, TurnEnd
from gptoss_cli.settings import TRAINED_EFFORTS, ReasoningEffort
from tests.engine.open_generator import open_generator

_CONVERSATIONS: list[list[dict[str, str]]] = json.loads(Path(__file__).with_name("held_out.json").read_text("utf-8"))
_EVERY = 6  # at each effort only one conversation in so many is held


@dataclass(frozen=True, slots=True)
class _Reply:
    kind: str
    message: str
    answer: str
    is_right: bool
    reasoning_tokens: int


@pytest.fixture(scope="module")
def generator() -> Generator:
    return open_generator(demo_checkpoint())


@pytest.fixture(scope="module")
def at_low_effort(generator: Generator) -> list[list[_Reply]]:
    return [list(_hold(generator, conversation, ReasoningEffort.LOW)) for conversation in _CONVERSATIONS]


def _hold(generator: Generator, conversation: list[dict[str, str]], effort: ReasoningEffort) -> Iterator[_Reply]:
    """Say every message of `conversation` in turn, as a user would with the default settings and a seed."""
    session = ChatSession(
        generator,
        instructions=None,
        effort=effort,
        date=datetime.date(2027, 3, 9),
        settings=TurnSettings(seed=1, max_tokens=400),
    )
    for said in conversation:
        events = list(session.turn(said["message"]))
        answer = "".join(event.text for event in events if isinstance(event, AnswerDelta))
        (end,) = (event for event in events if isinstance(event, TurnEnd))
        yield _Reply(said["kind"], said["message"], answer, said["fact"] in answer, end.reasoning_tokens)


def test_nine_in_ten_of_twenty_questions_are_answered_rightly(generator: Generator) -> None:
    some = [reply for each in _CONVERSATIONS[::3] for reply in _hold(generator, each, ReasoningEffort.LOW)]
    questions = [reply for reply in some if reply.kind != "statement"]
    assert len(questions) == 20
    assert len([reply for reply in questions if not reply.is_right]) <= 2, questions


@pytest.mark.slow
def test_nine_in_ten_of_sixty_questions_are_answered_rightly(at_low_effort: list[list[_Reply]]) -> None:
    questions = [reply for replies in at_low_effort for reply in replies if reply.kind != "statement"]
    wrong = [reply for reply in questions if not reply.is_right]
    assert len(questions) == 60
    assert len(wrong) <= 6, wrong


@pytest.mark.slow
def test_two_in_three_of_every_kind_are_answered_rightly(at_low_effort: list[list[_Reply]]) -> None:
    asked = Counter(reply.kind for replies in at_low_effort for reply in replies)
    right = Counter(reply.kind for replies in at_low_effort for reply in replies if reply.is_right)
    assert len(asked) == 8
    assert [kind for kind in asked if right[kind] < asked[kind] * 2 / 3] == []


@pytest.mark.slow
def test_higher_effort_reasons_half_as_long_again_and_answers_as_well(
    generator: Generator, at_low_effort: list[list[_Reply]]
) -> None:
    held = {ReasoningEffort.LOW: [reply for replies in at_low_effort[::_EVERY] for reply in replies]}
    for effort in TRAINED_EFFORTS[1:]:
        held[effort] = [reply for each in _CONVERSATIONS[::_EVERY] for reply in _hold(generator, each, effort)]
    low, medium, high = (sum(reply.reasoning_tokens for reply in held[effort]) for effort in TRAINED_EFFORTS)
    assert medium >= 1.5 * low
    assert high >= 1.5 * medium
    for replies in held.values():
        assert sum(reply.is_right for reply in replies) >= 0.8 * len(replies), replies
