"""The end of a turn: stop texts, the deadline, and incomplete answers."""

import datetime
from collections.abc import Iterator

import pytest

from gptoss_cli.chat.session import ChatSession
from gptoss_cli.chat.stopping import Incomplete, Problem, apply_stop_conditions, incompleteness
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.errors import ExitStatus
from gptoss_cli.harmony.events import AnswerDelta, EndReason, Event, Message, MessageEnd, Role, TurnEnd
from gptoss_cli.settings import ReasoningEffort
from tests.harmony.malformed import MALFORMED
from tests.scripted_generator import ScriptedGenerator


def _end(reason: EndReason, *, answered: bool = True) -> TurnEnd:
    return TurnEnd(reason, answered, (), 1, 1, 0, 1, 0, 0.1, 0.2)


def _turn_of(*pieces: str) -> Iterator[Event]:
    for piece in pieces:
        yield AnswerDelta(piece)
    yield MessageEnd(Message(Role.ASSISTANT, "".join(pieces), channel="final"))
    yield _end(EndReason.INTERRUPTED)


@pytest.mark.parametrize(
    ("pieces", "stops", "text", "found"),
    [
        (["ab", "cd"], ["bc"], "a", True),
        (["a", "b", "a", "b", "c"], ["abc"], "ab", True),
        (["aab"], ["ab", "a"], "", True),
        (["abab"], ["abc"], "abab", False),
        (["ab", "a"], ["abc"], "aba", False),
        (["x", "\n", "\n", "y"], ["\n\n"], "x", True),
        (["xy"], [], "xy", False),
    ],
)
def test_a_stop_text_is_found_wherever_the_pieces_are_cut(
    pieces: list[str], stops: list[str], text: str, found: bool
) -> None:
    ended: list[None] = []
    events = list(apply_stop_conditions(_turn_of(*pieces), lambda: ended.append(None), stop_texts=stops))
    assert "".join(event.text for event in events if isinstance(event, AnswerDelta)) == text
    assert bool(ended) == found
    assert events[-1] == _end(EndReason.STOP_TEXT if found else EndReason.INTERRUPTED)


def test_a_deadline_that_has_passed_ends_the_turn_after_its_next_event() -> None:
    ended: list[None] = []
    events = list(apply_stop_conditions(_turn_of("a", "b"), lambda: ended.append(None), deadline=0.0))
    assert events[0] == AnswerDelta("a")
    assert ended
    assert events[-1] == _end(EndReason.TIMEOUT)


def test_a_complete_answer_is_not_incomplete() -> None:
    assert incompleteness(_end(EndReason.COMPLETE)) is None
    assert incompleteness(_end(EndReason.STOP_TEXT, answered=False)) is None


def test_a_turn_that_completes_without_an_answer_failed() -> None:
    expected = Incomplete(Problem.NO_ANSWER, ExitStatus.FAILED, answered=False)
    assert incompleteness(_end(EndReason.COMPLETE, answered=False)) == expected


@pytest.mark.parametrize(
    "reason", [reason for reason in EndReason if reason not in (EndReason.COMPLETE, EndReason.STOP_TEXT)]
)
@pytest.mark.parametrize("answered", [False, True])
def test_every_other_end_has_a_problem_of_its_own(reason: EndReason, answered: bool) -> None:
    incomplete = incompleteness(_end(reason, answered=answered))
    assert incomplete is not None
    assert incomplete.problem is not Problem.NO_ANSWER
    assert incomplete.answered == answered
    assert incomplete.status is not ExitStatus.DONE


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_turn_ends_in_an_answer_or_is_incomplete(name: str) -> None:
    session = ChatSession(
        ScriptedGenerator([MALFORMED[name].ids]),
        instructions=None,
        effort=ReasoningEffort.MEDIUM,
        date=datetime.date(2025, 8, 5),
        settings=TurnSettings(free_headers=True),
    )
    for _ in session.turn("x"):
        pass
    assert session.last_end is not None
    incomplete = incompleteness(session.last_end)
    answered = bool(MALFORMED[name].answer.strip())
    assert session.last_end.answered == answered
    assert answered or incomplete is not None
