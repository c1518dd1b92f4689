"""A turn's headers cannot be malformed, and its reasoning ends when it has to."""

import datetime
import re
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from gptoss_cli.chat.session import ChatSession
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.harmony.events import (
    AnswerDelta,
    Cut,
    Delta,
    EndReason,
    Event,
    Markup,
    Message,
    MessageEnd,
    ReasoningCut,
    ReasoningDelta,
    Role,
    TurnEnd,
)
from gptoss_cli.harmony.vocabulary import ANSWER_NOW, RETURN
from gptoss_cli.settings import ReasoningEffort
from tests.harmony.malformed import ANALYSIS, FIRST_FINAL, NEXT, ids_of
from tests.random_generator import RandomGenerator
from tests.scripted_generator import ScriptedGenerator

DATE = datetime.date(2025, 8, 5)
WELL_FORMED = re.compile(
    r"(<\|start\|>assistant)?"
    r"((?P<to> to=(functions\.look|python))?<\|channel\|>(analysis|commentary|final)"
    r"(?P<then> to=(functions\.look|python))?( json| ?<\|constrain\|>json| code)?)<\|message\|>"
)
PONDER = "Let me think about what the letters are, and how many of them went to the harbour. "


def open_session(
    generator: RandomGenerator | ScriptedGenerator,
    *,
    effort: ReasoningEffort = ReasoningEffort.LOW,
    recipients: Iterable[str] = (),
    **settings: Any,
) -> ChatSession:
    return ChatSession(
        generator,
        instructions=None,
        effort=effort,
        date=DATE,
        settings=TurnSettings(**settings),
        recipients=recipients,
    )


def scripted(*turns: str | Iterable[int]) -> ScriptedGenerator:
    return ScriptedGenerator([ids_of(turn) if isinstance(turn, str) else turn for turn in turns])


def shown(events: Iterable[Event], kind: type[AnswerDelta | ReasoningDelta]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def end(events: list[Event]) -> TurnEnd:
    assert isinstance(events[-1], TurnEnd)
    return events[-1]


def markup(events: Iterable[Event]) -> list[str]:
    """The headers, each with the `<|start|>` before it, and the ends between them."""
    joined = ""
    for event in events:
        if isinstance(event, Markup):
            joined += event.text
        elif isinstance(event, MessageEnd):
            joined += "\0"
    return [part for part in re.split(r"\0(?:<\|(?:end|return|call|endoftext)\|>)*", joined) if part]


def random_turns(count: int, **options: Any) -> Iterator[tuple[ChatSession, list[Event]]]:
    for seed in range(count):
        session = open_session(RandomGenerator(rarity=2), seed=seed, max_tokens=120, **options)
        yield session, list(session.turn("Hi"))


@pytest.mark.parametrize("recipients", [(), ("functions.look", "python")])
def test_constrained_headers_are_well_formed_and_every_turn_ends(recipients: tuple[str, ...]) -> None:
    headers = 0
    for session, events in random_turns(400, recipients=recipients):
        reason = end(events).reason
        assert reason in (EndReason.COMPLETE, EndReason.CALL, EndReason.TOKEN_LIMIT)
        written = markup(events)
        if reason is EndReason.TOKEN_LIMIT and not written[-1].endswith("<|message|>"):
            written.pop()  # the limit fell into it
        for header in written:
            found = WELL_FORMED.fullmatch(header)
            assert found, header
            assert not (found["to"] and found["then"])
            assert recipients or not (found["to"] or found["then"])
            headers += 1
        assert all(message.complete for message in session.conversation.messages[1:-1])
    assert headers > 400


def test_a_constrained_turn_ends_with_what_is_for_the_user_or_a_tool() -> None:
    for session, events in random_turns(300, recipients=["functions.look"]):
        last = session.conversation.messages[-1]
        match end(events).reason:
            case EndReason.COMPLETE:
                assert last.channel == "final"
            case EndReason.CALL:
                assert last.recipient == "functions.look"


def test_free_headers_are_as_malformed_as_the_model_likes_and_nothing_is_lost() -> None:
    malformed = 0
    for session, events in random_turns(300, free_headers=True):
        assert isinstance(session.last_raw, str)
        assert session.last_raw == "".join(event.text for event in events if isinstance(event, Delta | Markup))
        malformed += any(not WELL_FORMED.fullmatch(header) for header in markup(events))
    assert malformed > 100


def test_an_answer_that_is_ended_like_a_message_ends_the_turn() -> None:
    generator = scripted(f"{FIRST_FINAL}Yes.<|end|>{NEXT}{FIRST_FINAL}And no.<|return|>")
    events = list(open_session(generator).turn("Hi"))
    assert shown(events, AnswerDelta) == "Yes."
    assert end(events).reason is EndReason.COMPLETE
    assert generator.sequence[-1] == RETURN


# Answer now.


def answer_now_after(count: int, generator: ScriptedGenerator, **options: Any) -> tuple[ChatSession, list[Event]]:
    """A turn that is told to answer after `count` pieces of reasoning."""
    session = open_session(generator, **options)
    events = []
    for event in session.turn("Hi"):
        events.append(event)
        if sum(isinstance(event, ReasoningDelta) for event in events) == count:
            session.answer_now()
    return session, events


def endless() -> Iterator[int]:
    """Reasoning without end; once the answer was forced it is what follows."""
    yield from ids_of(ANALYSIS)
    for number in range(100_000):
        yield from ids_of(f" thought {number * number % 1009}")


@pytest.mark.parametrize("free_headers", [False, True])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_answer_now_takes_effect_at_the_next_token(count: int, free_headers: bool) -> None:
    script = ids_of(f"{ANALYSIS}one two three four five six seven") + ids_of(" eight nine<|return|>")
    generator = scripted(script)
    prompt_and_thought = 3 + count
    session, events = answer_now_after(count, generator, free_headers=free_headers)
    said = generator.sequence[len(generator.prompts[0]) :]
    assert said[:prompt_and_thought] == tuple(script[:prompt_and_thought])
    assert said[prompt_and_thought : prompt_and_thought + 6] == ANSWER_NOW
    assert shown(events, ReasoningDelta).split() == ["one", "two", "three", "four", "five", "six", "seven"][:count]
    assert end(events).cuts == (ReasoningCut(Cut.ANSWER_NOW, prompt_and_thought),)
    assert end(events).reason is EndReason.COMPLETE
    assert session.conversation.messages[1].complete


def test_the_cut_is_told_before_the_answer() -> None:
    _, events = answer_now_after(2, scripted(f"{ANALYSIS}one two three four<|return|>"))
    kinds = [type(event) for event in events]
    assert kinds.index(ReasoningCut) < kinds.index(AnswerDelta)
    assert ReasoningDelta not in kinds[kinds.index(ReasoningCut) :]


def test_answer_now_before_the_first_token_answers_at_once() -> None:
    session = open_session(scripted("Yes.<|return|>"))
    events = []
    for event in session.turn("Hi"):
        events.append(event)
        session.answer_now()
    assert shown(events, AnswerDelta) == "Yes."
    assert end(events).reasoning_tokens == 0


def test_answer_now_in_an_answer_changes_nothing() -> None:
    session = open_session(scripted(f"{FIRST_FINAL}Yes, I do.<|return|>"))
    events = []
    for event in session.turn("Hi"):
        events.append(event)
        if isinstance(event, AnswerDelta):
            session.answer_now()
    assert shown(events, AnswerDelta) == "Yes, I do."
    assert end(events).cuts == ()


def test_answer_now_lets_a_preamble_finish() -> None:
    turn = f"<|channel|>commentary<|message|>One moment.<|end|>{NEXT}{FIRST_FINAL}Yes.<|return|>"
    session = open_session(scripted(turn))
    events = []
    for event in session.turn("Hi"):
        events.append(event)
        session.answer_now() if len(events) == 5 else None
    assert [message.text for message in session.conversation.messages[1:]] == ["One moment.", "Yes."]
    assert [cut.cut for cut in end(events).cuts] == [Cut.ANSWER_NOW]


def test_answer_now_is_forgotten_when_the_turn_is_over() -> None:
    generator = scripted(f"{ANALYSIS}one two<|return|>", f"{ANALYSIS}Hm.<|end|>{NEXT}{FIRST_FINAL}Yes.<|return|>")
    session, _ = answer_now_after(1, generator)
    session.answer_now()
    events = list(session.turn("And?"))
    assert (shown(events, ReasoningDelta), shown(events, AnswerDelta)) == ("Hm.", "Yes.")


def test_answer_now_may_come_from_another_thread() -> None:
    def slow() -> Iterator[int]:
        for token in endless():
            time.sleep(0.0005)
            yield token

    session = open_session(scripted(slow()), max_tokens=5_000)
    told = threading.Timer(0.1, session.answer_now)
    told.start()
    for event in session.turn("Hi"):
        if isinstance(event, AnswerDelta):
            session.stop()
    told.join()
    assert session.last_end is not None
    assert [cut.cut for cut in session.last_end.cuts] == [Cut.ANSWER_NOW]


def test_after_answer_now_only_the_answer_and_the_new_message_are_read() -> None:
    generator = scripted(f"{ANALYSIS}one two three four<|return|>", f"{FIRST_FINAL}Yes.<|return|>")
    session, _ = answer_now_after(2, generator)
    list(session.turn("And?"))
    # The answer's <|channel|> is where the reasoning's was.
    read = f"final<|message|> three four<|end|><|start|>user<|message|>And?<|end|>{NEXT}"
    assert generator.prefilled_tokens[-1] == len(ids_of(read))


# The budget.


@pytest.mark.parametrize("free_headers", [False, True])
@pytest.mark.parametrize("budget", [0, 1, 3, 4, 5, 6, 7, 8, 20, 100])
def test_a_budget_is_the_most_tokens_of_reasoning(budget: int, free_headers: bool) -> None:
    session = open_session(scripted(endless()), think_budget=budget, free_headers=free_headers, max_tokens=400)
    events = list(session.turn("Hi"))
    spent = end(events).reasoning_tokens
    assert spent == (budget if budget >= 5 else 0)
    assert [cut.cut for cut in end(events).cuts] == [Cut.BUDGET]
    assert shown(events, AnswerDelta)


@pytest.mark.parametrize("free_headers", [False, True])
@pytest.mark.parametrize("budget", [0, 4, 9, 30])
def test_no_model_spends_more_than_its_budget(budget: int, free_headers: bool) -> None:
    for _, events in random_turns(100, think_budget=budget, free_headers=free_headers):
        assert end(events).reasoning_tokens <= budget


def test_a_budget_that_is_not_used_up_leaves_no_mark() -> None:
    turn = f"{ANALYSIS}Hm.<|end|>{NEXT}{FIRST_FINAL}Yes.<|return|>"
    events = list(open_session(scripted(turn), think_budget=50).turn("Hi"))
    assert end(events).cuts == ()
    assert shown(events, ReasoningDelta) == "Hm."


def test_several_thoughts_share_a_budget() -> None:
    thoughts = f"{ANALYSIS}{PONDER}<|end|>{NEXT}" * 20
    events = list(open_session(scripted(thoughts), think_budget=70, max_tokens=200).turn("Hi"))
    assert 60 <= end(events).reasoning_tokens <= 70
    assert [cut.cut for cut in end(events).cuts] == [Cut.BUDGET]


# The loop guard.


def test_a_loop_in_the_reasoning_forces_the_answer() -> None:
    generator = scripted(f"{ANALYSIS}{PONDER * 200}")
    events = list(open_session(generator, max_tokens=1_000).turn("Hi"))
    (cut,) = end(events).cuts
    assert cut.cut is Cut.LOOP
    assert cut.reasoning_tokens < 3 + 2 * len(ids_of(PONDER)) + 400
    assert shown(events, AnswerDelta)


def test_thoughts_that_repeat_each_other_are_a_loop() -> None:
    generator = scripted(f"{ANALYSIS}{PONDER}<|end|>{NEXT}" * 100)
    events = list(open_session(generator, max_tokens=1_000).turn("Hi"))
    assert [cut.cut for cut in end(events).cuts] == [Cut.LOOP]


def test_an_answer_may_repeat_itself_for_long_but_not_for_ever() -> None:
    events = list(open_session(scripted(f"{FIRST_FINAL}{PONDER * 1_000}")).turn("Hi"))
    assert end(events).reason is EndReason.LOOP
    assert 4_096 <= end(events).answer_tokens < 4_200
    poem = PONDER * 100
    events = list(open_session(scripted(f"{FIRST_FINAL}{poem}<|return|>")).turn("Hi"))
    assert (end(events).reason, shown(events, AnswerDelta)) == (EndReason.COMPLETE, poem)


# No reasoning.


def test_without_reasoning_the_prompt_opens_the_answer() -> None:
    generator = scripted("Yes.<|return|>", "No.<|return|>")
    session = open_session(generator, effort=ReasoningEffort.NONE)
    events = list(session.turn("Hi"))
    assert generator.prompts[0][-5:] == ids_of(f"{NEXT}{FIRST_FINAL}")
    assert shown(events, AnswerDelta) == "Yes."
    assert session.conversation.messages[-1] == Message(Role.ASSISTANT, "Yes.", channel="final")
    assert (end(events).reasoning_tokens, end(events).answer_tokens) == (0, len(ids_of("Yes.<|return|>")))
    list(session.turn("And?"))
    read = f"<|end|><|start|>user<|message|>And?<|end|>{NEXT}{FIRST_FINAL}"
    assert generator.prefilled_tokens[-1] == len(ids_of(read))


def test_a_random_model_without_reasoning_answers() -> None:
    for session, events in random_turns(50, effort=ReasoningEffort.NONE):
        assert end(events).reasoning_tokens == 0
        assert all(message.is_answer for message in session.conversation.messages[1:])
