"""A turn that is read again has the tokens, log probabilities and experts that it had when it was generated."""

import datetime
from dataclasses import replace

import pytest

from gptoss_cli.chat.session import ChatSession
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.demo.unpack import demo_checkpoint
from gptoss_cli.engine.generator import Generator
from gptoss_cli.harmony.events import AnswerDelta, Event, ReasoningDelta, Token
from gptoss_cli.settings import ReasoningEffort
from tests.engine.open_generator import open_generator


@pytest.fixture(scope="module")
def generator() -> Generator:
    return open_generator(demo_checkpoint(), context_tokens=1_000)


def _session(generator: Generator, effort: ReasoningEffort, **settings: int | float) -> ChatSession:
    return ChatSession(
        generator,
        instructions=None,
        effort=effort,
        date=datetime.date(2025, 8, 5),
        settings=TurnSettings(**settings),  # type: ignore[arg-type]
    )


def _tokens(events: list[Event]) -> list[Token]:
    return [event for event in events if isinstance(event, Token)]


@pytest.mark.parametrize("think_budget", [12, None])
@pytest.mark.parametrize("effort", [ReasoningEffort.NONE, ReasoningEffort.HIGH])
@pytest.mark.parametrize("temperature", [1.3, pytest.param(0, marks=pytest.mark.slow)])
def test_reading_a_turn_again_gives_what_an_observer_of_it_saw(
    generator: Generator, effort: ReasoningEffort, temperature: float, think_budget: int | None
) -> None:
    session = _session(generator, effort, temperature=temperature, seed=7, max_tokens=60, logprobs=3)
    session.settings = replace(session.settings, think_budget=think_budget)
    events = list(session.turn("What is gptoss?"))
    seen, again = _tokens(events), list(session.inspect_last_turn(top=3))
    assert session.last_turn is not None
    assert [token.token.id for token in seen] == [token.token.id for token in again] == session.last_turn.ids
    for before, after in zip(seen, again, strict=True):
        assert (before.channel, before.info.forced, before.info.restricted) == (
            after.channel,
            after.info.forced,
            after.info.restricted,
        )
        assert after.info.logprob == pytest.approx(before.info.logprob, abs=1e-4)
        assert after.info.experts == before.info.experts
    assert [event for event in events if isinstance(event, Token)] != []


def test_the_bytes_of_each_channel_are_its_text(generator: Generator) -> None:
    session = _session(generator, ReasoningEffort.HIGH, seed=3, logprobs=0)
    events = list(session.turn("Who made gpt-oss?"))
    for channel, kind in (("analysis", ReasoningDelta), ("final", AnswerDelta)):
        joined = b"".join(token.token.data for token in _tokens(events) if token.channel == channel)
        assert joined.decode() == "".join(event.text for event in events if isinstance(event, kind))
        assert joined


def test_an_inspection_changes_no_later_turn(generator: Generator) -> None:
    answers = []
    for inspects in (False, True):
        session = _session(generator, ReasoningEffort.LOW, seed=5)
        list(session.turn("What is gptoss?"))
        if inspects:
            list(session.inspect_last_turn())
        list(session.turn("And a sliding window?"))
        answers.append((session.last_raw, [message.text for message in session.conversation.messages]))
    assert answers[0] == answers[1]


def test_an_inspection_that_is_stopped_ends_at_the_next_token(generator: Generator) -> None:
    session = _session(generator, ReasoningEffort.LOW, seed=5)
    list(session.turn("What is gptoss?"))
    reading = session.inspect_last_turn()
    next(reading)
    session.stop()
    assert len(list(reading)) == 0
    assert list(session.inspect_last_turn()) == []
    session.forget_stop()
    assert list(session.inspect_last_turn())


def test_without_a_turn_there_is_nothing_to_inspect(generator: Generator) -> None:
    assert list(_session(generator, ReasoningEffort.LOW).inspect_last_turn()) == []
