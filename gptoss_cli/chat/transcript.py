"""The text of a turn, collected while the turn runs."""

from collections.abc import Iterable, Iterator

from gptoss_cli.harmony.events import AnswerDelta, Event, MessageEnd, ReasoningDelta


class Transcript:
    """The answer and the reasoning of a turn. Several answers are joined with a newline."""

    def __init__(self) -> None:
        self._answer: list[str] = []
        self._reasoning: list[str] = []
        self._message_ended = False

    @property
    def answer(self) -> str:
        """The text of the answer so far."""
        return "".join(self._answer)

    @property
    def reasoning(self) -> str:
        """The text of the reasoning so far."""
        return "".join(self._reasoning)

    def record(self, events: Iterable[Event]) -> Iterator[Event]:
        """Pass `events` on and keep their text."""
        for event in events:
            if isinstance(event, AnswerDelta):
                if self._message_ended and self._answer:
                    self._answer.append("\n")
                self._message_ended = False
                self._answer.append(event.text)
            elif isinstance(event, ReasoningDelta):
                self._reasoning.append(event.text)
            elif isinstance(event, MessageEnd):
                self._message_ended = True
            yield event
