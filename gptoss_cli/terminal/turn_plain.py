"""Plain output of a turn, also in pipes: the answer on stdout, everything else on stderr."""

import re
from collections.abc import Iterable, Iterator
from enum import Enum, auto

from gptoss_cli.harmony.events import (
    AnswerDelta,
    CallDelta,
    Channel,
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
from gptoss_cli.terminal.console import Activity, Console, Output, Style

NOTICES = {
    Cut.ANSWER_NOW: "The reasoning was stopped: the answer follows.",
    Cut.BUDGET: "The reasoning has used up its budget: the answer follows.",
    Cut.LOOP: "The reasoning repeated itself: the answer follows.",
}
_SPECIAL_TOKEN = re.compile(r"(<\|[a-z_]+\|>)")


def show_turn(events: Iterable[Event], console: Console, *, reasoning: ReasoningDisplay) -> TurnEnd:
    """Show the events of a turn and return the last one.

    Every message, also one that is cut off, ends with a newline on its stream. The caller closes `events`. Raises what
    `events` raises, and what Console.out raises.
    """
    event: Event | None = None
    with console.activity() as activity:
        view = PlainView(console, activity, reasoning)
        try:
            for event in events:
                view.show(event)
        except BrokenPipeError:
            raise
        except BaseException:
            view.end_part()
            raise
    assert isinstance(event, TurnEnd), "a turn without an error ends with TurnEnd"
    return event


def statistics_line(end: TurnEnd) -> str:
    """Return the tokens and the speed of a turn in one line."""
    cached = end.prompt_tokens - end.prefilled_tokens
    tokens = f"{end.prompt_tokens:,} prompt ({cached:,} cached), {end.reasoning_tokens:,} reasoning"
    parts = [f"Tokens: {tokens}, {end.answer_tokens:,} answer"]
    if end.first_token_seconds is not None:
        parts.append(f"{end.first_token_seconds:.2f} s to the first")
    if end.decode_rate is not None:
        parts.append(f"{end.decode_rate:.1f} tokens/s")
    return "; ".join([*parts, f"seed {end.seed}"])


def raw_pieces(raw: str) -> Iterator[tuple[str, Style]]:
    """Split a turn as the model generated it into pieces with a style for each: markup, reasoning, calls, the rest."""
    header, style = "", Style.PLAIN
    # Without reasoning the first header is part of the prompt.
    in_header = "<|message|>" in raw
    for piece in _SPECIAL_TOKEN.split(raw):
        if _SPECIAL_TOKEN.fullmatch(piece):
            in_header = piece != "<|message|>"
            style = _style(header) if not in_header else Style.PLAIN
            header = "" if not in_header else header
            yield piece, Style.MARKUP
        elif in_header:
            header += f" {piece}"
            yield piece, Style.MARKUP
        else:
            yield piece, style


def _style(header: str) -> Style:
    if " to=" in header:
        return Style.CALL
    return Style.DIM if Channel.ANALYSIS in header.split() else Style.PLAIN


class _Part(Enum):
    """The parts of a turn. Each starts on a new line."""

    REASONING = auto()
    PREAMBLE = auto()
    CALL = auto()
    ANSWER = auto()


class PlainView:
    """The plain view of one turn. `activity` is what it says while it shows nothing, if it has any."""

    def __init__(self, console: Console, activity: Activity | None, reasoning: ReasoningDisplay) -> None:
        self._console = console
        self._activity = activity or Activity(Output(None))
        self._reasoning = reasoning
        self._part: _Part | None = None
        self._wrote_err = False

    def show(self, event: Event) -> None:
        """Write an event."""
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
                self._begin(_Part.CALL, heading=f"call to {recipient}: ")
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
        """End the line of the current part, if there is one."""
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
            self._console.err("\n")  # an empty line before the answer
        self._part = part
        self._console.err(heading, Style.DIM)
