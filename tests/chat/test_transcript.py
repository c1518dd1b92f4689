"""The text of a turn, collected while it runs."""

from gptoss_cli.chat.transcript import Transcript
from gptoss_cli.harmony.events import AnswerDelta, Event, Message, MessageEnd, ReasoningDelta, Role

_END = MessageEnd(Message(Role.ASSISTANT, "", channel="final"))


def _recorded(*events: Event) -> Transcript:
    transcript = Transcript()
    assert list(transcript.record(events)) == list(events)
    return transcript


def test_answer_and_reasoning_are_collected_apart() -> None:
    transcript = _recorded(ReasoningDelta("a"), ReasoningDelta("b"), _END, AnswerDelta("c"), AnswerDelta("d"), _END)
    assert (transcript.reasoning, transcript.answer) == ("ab", "cd")


def test_several_answers_are_joined_with_a_newline() -> None:
    assert _recorded(AnswerDelta("a"), _END, AnswerDelta("b"), _END).answer == "a\nb"


def test_a_turn_without_text_has_an_empty_transcript() -> None:
    transcript = _recorded(_END)
    assert (transcript.reasoning, transcript.answer) == ("", "")
