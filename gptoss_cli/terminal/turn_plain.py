"""Shows a turn while it is made: the answer on stdout, everything else on stderr."""

from collections.abc import Iterable
from enum import Enum, auto

from gptoss_cli.harmony.events import (
    AnswerDelta,
    CallDelta,
    Cut,
    Event,
    MessageEnd,
    PreambleDelta,
    PrefillProgress,
    ReasoningCut,
    ReasoningDelta,
    TurnEnd,
)
from gptoss_cli.settings import ReasoningDisplay
from gptoss_cli.terminal.console import Activity, Console, Style

NOTICES = {
    Cut.ANSWER_NOW: "The reasoning ends here: the answer follows.",
    Cut.BUDGET: "The reasoning has used up its budget: the answer follows.",
    Cut.LOOP: "The reasoning went round in circles: the answer follows.",
}


def show_turn(events: Iterable[Event], console: Console, *, reasoning: ReasoningDisplay) -> TurnEnd:
    """Show the events of one turn; returns the last of them.

    Every message ends with one newline on its own stream, a cut one too. Closing `events` is the caller's part. Raises
    what `events` raises, and what Console.out raises.
    """
    event: Event | None = None
    with console.activity() as activity:
        screen = _Screen(console, activity, reasoning)
        try:
            for event in events:
                screen.show(event)
        except BrokenPipeError:
            raise
        except BaseException:
            screen.end_part()
            raise
    assert isinstance(event, TurnEnd), "a turn that ends without an error says how"
    return event


class _Part(Enum):
    """What is being written; a change of part begins a new line."""

    REASONING = auto()
    PREAMBLE = auto()
    CALL = auto()
    ANSWER = auto()


class _Screen:
    def __init__(self, console: Console, activity: Activity, reasoning: ReasoningDisplay) -> None:
        self._console = console
        self._activity = activity
        self._reasoning = reasoning
        self._part: _Part | None = None
        self._wrote_err = False

    def show(self, event: Event) -> None:
        match event:
            case PrefillProgress(done, total):
                self._activity.say(f"Reading the conversation, {done:,} of {total:,} tokens")
            case ReasoningDelta() if self._reasoning is not ReasoningDisplay.SHOW:
                self._activity.say("Reasoning")
            case ReasoningDelta(text):
                self._err(_Part.REASONING, text)
            case PreambleDelta(text):
                self._err(_Part.PREAMBLE, text)
            case CallDelta(recipient, text):
                self._begin(_Part.CALL, heading=f"call of {recipient}: ")
                self._err(_Part.CALL, text)
            case AnswerDelta(text):
                self._begin(_Part.ANSWER)
                self._console.out(text)
            case ReasoningCut(cut):
                self._activity.close()
                self.end_part()
                self._console.notice(NOTICES[cut])
            case MessageEnd() | TurnEnd():
                self.end_part()

    def end_part(self) -> None:
        """Finish the line of what is being written, if anything is."""
        part, self._part = self._part, None
        if part is _Part.ANSWER:
            self._console.out("\n")
        elif part is not None:
            self._console.err("\n")

    def _err(self, part: _Part, text: str) -> None:
        self._begin(part)
        self._wrote_err = True
        self._console.err(text, Style.PLAIN if part is _Part.PREAMBLE else Style.DIM)

    def _begin(self, part: _Part, *, heading: str = "") -> None:
        if part is self._part:
            return
        self._activity.close()
        self.end_part()
        if part is _Part.ANSWER and self._wrote_err and self._console.stdout.is_terminal:
            self._console.err("\n")  # sets the answer apart from what it came from
        self._part = part
        self._console.err(heading, Style.DIM)
