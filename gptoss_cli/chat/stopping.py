"""The end of a turn: conditions that stop it before the model does, and the reasons why an answer is incomplete."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from gptoss_cli.errors import ExitStatus
from gptoss_cli.harmony.events import AnswerDelta, EndReason, Event, MessageEnd, TurnEnd


class Problem(Enum):
    """A reason why a turn gave less than a complete answer."""

    NO_ANSWER = auto()
    TOOL_CALL = auto()
    TOKEN_LIMIT = auto()
    CONTEXT_FULL = auto()
    TIMEOUT = auto()
    REPETITION = auto()
    NUMERICAL_FAILURE = auto()
    INTERRUPTED = auto()
    WRONG_FORMAT = auto()  # an answer that does not match the format that was requested


@dataclass(frozen=True, slots=True)
class Incomplete:
    """A turn that gave less than a complete answer, and the exit status for it. `answered`: it gave a part of one.

    `timeout_seconds` is the time that the user gave, if it ran out.
    """

    problem: Problem
    status: ExitStatus
    answered: bool
    timeout_seconds: float | None = None


_PROBLEMS: Final = {
    EndReason.CALL: (Problem.TOOL_CALL, ExitStatus.FAILED),
    EndReason.TOKEN_LIMIT: (Problem.TOKEN_LIMIT, ExitStatus.CUT_SHORT),
    EndReason.CONTEXT_FULL: (Problem.CONTEXT_FULL, ExitStatus.CUT_SHORT),
    EndReason.TIMEOUT: (Problem.TIMEOUT, ExitStatus.CUT_SHORT),
    EndReason.LOOP: (Problem.REPETITION, ExitStatus.CUT_SHORT),
    EndReason.NUMERICAL_FAILURE: (Problem.NUMERICAL_FAILURE, ExitStatus.FAILED),
    EndReason.INTERRUPTED: (Problem.INTERRUPTED, ExitStatus.INTERRUPTED),
}


def timed_out(seconds: float | None, *, answered: bool) -> Incomplete:
    """Return the reason for a turn that ends because the `seconds` for it are over."""
    return Incomplete(Problem.TIMEOUT, ExitStatus.CUT_SHORT, answered, seconds)


def incompleteness(end: TurnEnd, *, timeout_seconds: float | None = None) -> Incomplete | None:
    """Return the reason why the turn gave no complete answer, None if it gave one."""
    if end.reason is EndReason.STOP_TEXT or (end.reason is EndReason.COMPLETE and end.answered):
        return None
    problem, status = _PROBLEMS.get(end.reason, (Problem.NO_ANSWER, ExitStatus.FAILED))
    return Incomplete(problem, status, end.answered, timeout_seconds if problem is Problem.TIMEOUT else None)


def apply_stop_conditions(
    events: Iterable[Event],
    end_turn: Callable[[], None],
    *,
    stop_texts: Sequence[str] = (),
    deadline: float | None = None,
) -> Iterator[Event]:
    """Yield the events of a turn up to the first of `stop_texts` in its answer, or to `deadline`.

    `deadline` is in seconds of time.monotonic. `end_turn` must make the turn end in order and may be called several
    times. The TurnEnd then has the reason that ended it. Text that may be the beginning of a stop text is held back
    until it turns out not to be.
    """
    filtered = _StopTextFilter(stop_texts)
    ended: EndReason | None = None
    for event in events:
        match event:
            case AnswerDelta(text):
                passed = filtered.feed(text)
                if passed:
                    yield AnswerDelta(passed)
            case MessageEnd():
                rest = filtered.close()
                if rest:
                    yield AnswerDelta(rest)
                yield event
            case TurnEnd(reason=EndReason.INTERRUPTED) if reason := ended or _end_reason(filtered, deadline):
                yield replace(event, reason=reason)
            case _:
                yield event
        if ended is None:
            ended = _end_reason(filtered, deadline)
        if ended is not None:
            end_turn()


class _StopTextFilter:
    """Passes text up to the first of `stop_texts`, and nothing after it."""

    def __init__(self, stop_texts: Sequence[str]) -> None:
        self.found = False
        self._stop_texts = stop_texts
        self._held = ""

    def feed(self, text: str) -> str:
        """Return the part of the held and the new text that certainly precedes any stop text."""
        if self.found:
            return ""
        text = self._held + text
        positions = [position for stop in self._stop_texts if (position := text.find(stop)) >= 0]
        if positions:
            self.found = True
            self._held = ""
            return text[: min(positions)]
        held = max((_overlap(text, stop) for stop in self._stop_texts), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def close(self) -> str:
        """Return the text that was held back: the message ended, so it is no stop text."""
        rest, self._held = self._held, ""
        return rest


def _end_reason(filtered: _StopTextFilter, deadline: float | None) -> EndReason | None:
    if filtered.found:
        return EndReason.STOP_TEXT
    return EndReason.TIMEOUT if deadline is not None and time.monotonic() >= deadline else None


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of `text` that is a proper prefix of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
