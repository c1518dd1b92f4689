"""Ends a turn before the model does: at a text that was named, or when its time is up. Adds nothing to what is said."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gptoss_cli.harmony.events import EndReason, Event


def limited(
    events: Iterable["Event"],
    end_turn: Callable[[], None],
    *,
    stop_texts: Sequence[str] = (),
    deadline: float | None = None,
) -> Iterator["Event"]:
    """The events of one turn up to the first of `stop_texts` in its answer, or to `deadline` (time.monotonic seconds).

    `end_turn` must make the turn end in order and may be called several times. The TurnEnd says what ended it. Text
    that may be the beginning of a stop text is held back until it is known not to be.
    """
    from gptoss_cli.harmony.events import AnswerDelta, EndReason, MessageEnd, TurnEnd

    watch = _StopTexts(stop_texts)
    ended: EndReason | None = None
    for event in events:
        match event:
            case AnswerDelta(text):
                said = watch.feed(text)
                if said:
                    yield AnswerDelta(said)
            case MessageEnd():
                rest = watch.close()
                if rest:
                    yield AnswerDelta(rest)
                yield event
            case TurnEnd(reason=EndReason.INTERRUPTED) if ended is not None:
                yield replace(event, reason=ended)
            case _:
                yield event
        if ended is None:
            ended = _reason(watch, deadline)
        if ended is not None:
            end_turn()


def _reason(watch: "_StopTexts", deadline: float | None) -> "EndReason | None":
    from gptoss_cli.harmony.events import EndReason

    if watch.found:
        return EndReason.STOP_TEXT
    return EndReason.TIMEOUT if deadline is not None and time.monotonic() >= deadline else None


class _StopTexts:
    """Lets text through up to the first of `texts`, and nothing after it."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.found = False
        self._texts = texts
        self._held = ""

    def feed(self, text: str) -> str:
        """What of the text so far is now known to stand before any stop text."""
        if self.found:
            return ""
        text = self._held + text
        places = [place for stop in self._texts if (place := text.find(stop)) >= 0]
        if places:
            self.found = True
            self._held = ""
            return text[: min(places)]
        kept = max((_overlap(text, stop) for stop in self._texts), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def close(self) -> str:
        """The text is over: what was held back is no stop text."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
