"""Live output of a turn on a terminal: reasoning shown or collapsed, the answer rendered from Markdown."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from gptoss_cli.harmony.events import (
    AnswerDelta,
    CallDelta,
    Event,
    MessageEnd,
    PreambleDelta,
    PrefillProgress,
    ReasoningCut,
    ReasoningDelta,
    TurnEnd,
)
from gptoss_cli.settings import ReasoningDisplay
from gptoss_cli.terminal.cells import Line, Role, Span, fold, text_of, wrap
from gptoss_cli.terminal.live_region import LiveRegion
from gptoss_cli.terminal.markdown.stream import MarkdownStream
from gptoss_cli.terminal.sanitize import neutralize
from gptoss_cli.terminal.turn_plain import NOTICES
from gptoss_cli.units import counted

_FRAME_SECONDS = 1 / 12
# Drawing takes at most one part in so many of the time.
_FRAME_PAUSE_FACTOR = 30
_STATUS_AFTER_SECONDS = 0.3
_LONGEST_OPEN_LINE = 4_096


class _Text(Protocol):
    """A text that arrives in pieces; see MarkdownStream."""

    columns: int

    def feed(self, text: str) -> None: ...

    def take(self) -> list[Line]: ...

    def tail(self) -> list[Line]: ...

    def finish(self) -> list[Line]: ...


class _PlainText:
    """A text in one style without formatting."""

    def __init__(self, columns: int, sgr: str) -> None:
        self.columns = columns
        self._sgr = sgr
        self._open = ""

    def feed(self, text: str) -> None:
        self._open += neutralize(text)

    def take(self) -> list[Line]:
        *whole, self._open = self._open.split("\n")
        lines = [row for line in whole for row in self._rows(line)]
        if len(self._open) > _LONGEST_OPEN_LINE:
            *full, last = self._rows(self._open)
            lines += full
            self._open = text_of(last)
        return lines

    def tail(self) -> list[Line]:
        return self._rows(self._open) if self._open else []

    def finish(self) -> list[Line]:
        lines = self.take() + self.tail()
        self._open = ""
        while lines and not text_of(lines[-1]).strip():
            lines.pop()
        return lines

    def _rows(self, line: str) -> list[Line]:
        return wrap([Span(line.expandtabs(4), self._sgr)], self.columns)


class _Clock:
    """Seconds and tokens of the reasoning in all messages of a turn."""

    def __init__(self) -> None:
        self.tokens = 0
        self._began: float | None = None

    def begin(self) -> None:
        if self._began is None:
            self._began = time.monotonic()

    @property
    def seconds(self) -> str:
        return f"{time.monotonic() - (self._began or time.monotonic()):.0f} s"

    @property
    def count(self) -> str:
        return counted(self.tokens, "token")


class TurnView:
    """The view of one turn. `show` is called by the thread that runs the turn, the other methods by any.

    `has_keys`: the keys of a chat work meanwhile. `has_status`: progress and the cost of the reasoning are shown.
    """

    def __init__(
        self, screen: LiveRegion, reasoning: ReasoningDisplay, *, has_keys: bool = True, has_status: bool = True
    ) -> None:
        self._screen = screen
        self._has_keys = has_keys
        self._has_status = has_status
        self._display = reasoning
        self._lock = threading.RLock()
        self._final: list[Line] = []
        self._part: type[Event] | None = None
        self._text: _Text | None = None
        self._wrote = False
        self._changed = False
        self._status: str | None = None
        self._clock = _Clock()
        self._prefill_began: float | None = None
        self._reasoning: list[str] = []

    @property
    def reasoning_text(self) -> str:
        """All the reasoning so far."""
        return "".join(self._reasoning)

    def follow(self, events: Iterable[Event]) -> TurnEnd:
        """Show all `events` and return the last one. The cursor is below the output afterwards, also after an error."""
        event: Event | None = None
        try:
            with self._drawing():
                for event in events:
                    self.show(event)
        finally:
            self.end()
        assert isinstance(event, TurnEnd), "a turn without an error ends with TurnEnd"
        return event

    def show(self, event: Event) -> None:
        """Take an event, which is drawn in the next frame."""
        with self._lock:
            self._changed = True
            match event:
                case AnswerDelta(text) | PreambleDelta(text):
                    self._begin(type(event)).feed(text)
                case ReasoningDelta(text):
                    self._reason(text)
                case CallDelta(recipient, text):
                    if self._part is not CallDelta:
                        self._begin(CallDelta).feed(f"call to {recipient}: ")
                    assert self._text is not None
                    self._text.feed(text)
                case PrefillProgress(done, total):
                    self._prefill(done, total)
                case ReasoningCut(cut):
                    self._end_part()
                    self._add_note(NOTICES[cut])
                case MessageEnd() | TurnEnd():
                    self._end_part()

    def draw(self) -> None:
        """Draw a frame."""
        with self._lock:
            columns = self._screen.size[0]
            # A text that has not changed need not be laid out again; the seconds of a status line change anyway.
            if self._text is not None and not self._changed and columns == self._text.columns:
                return
            self._changed = False
            if self._text is not None:
                self._text.columns = columns
                self._final += self._text.take()
                tail = self._text.tail()
            else:
                tail = self._status_line(columns)
            final, self._final = self._final, []
            self._screen.show(final, tail)

    def end(self) -> None:
        """Finish the current part. The cursor is on an empty line below it afterwards."""
        with self._lock:
            self._end_part()
            self._status = None
            final, self._final = self._final, []
            self._screen.show(final)

    def toggle_reasoning(self) -> None:
        """Show all of the collapsed reasoning, or collapse it from here on."""
        with self._lock:
            shown = self._display is ReasoningDisplay.SHOW
            self._changed = True
            self._display = ReasoningDisplay.COLLAPSE if shown else ReasoningDisplay.SHOW
            if self._part is ReasoningDelta:
                self._end_text()
                if not shown:
                    self._open_text(_PlainText(self._screen.size[0], Role.DIM)).feed(self.reasoning_text)

    def _reason(self, text: str) -> None:
        self._reasoning.append(text)
        shown = self._display is ReasoningDisplay.SHOW
        if self._part is not ReasoningDelta:
            if shown:
                self._begin(ReasoningDelta)
            else:
                self._end_part()
                self._part = ReasoningDelta
            self._clock.begin()
        self._clock.tokens += 1
        if shown and self._text is not None:
            self._text.feed(text)

    def _begin(self, part: type[Event]) -> _Text:
        if self._part is part and self._text is not None:
            return self._text
        self._end_part()
        self._part = part
        columns = self._screen.size[0]
        markdown = part in (AnswerDelta, PreambleDelta)
        return self._open_text(MarkdownStream(columns) if markdown else _PlainText(columns, Role.DIM))

    def _open_text(self, text: _Text) -> _Text:
        self._status = None
        if self._wrote:
            self._final.append([])
        self._text = text
        return text

    def _end_text(self) -> None:
        if self._text is not None:
            last = self._text.finish()
            self._wrote = True
            self._final += last
            self._text = None

    def _end_part(self) -> None:
        self._end_text()
        part, self._part = self._part, None
        self._status = None
        is_noted = self._display is ReasoningDisplay.COLLAPSE and self._has_status
        is_noted |= self._display is ReasoningDisplay.SHOW and self._has_keys
        if part is ReasoningDelta and is_noted:
            hint = ", Ctrl-O shows it" if self._has_keys and self._display is ReasoningDisplay.COLLAPSE else ""
            self._add_note(f"Reasoned {self._clock.seconds} ({self._clock.count}){hint}")

    def _add_note(self, text: str) -> None:
        self._final += wrap([Span(text, Role.DIM)], self._screen.size[0])
        self._wrote = True

    def _prefill(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._prefill_began is None:
            self._prefill_began = now
        passed = now - self._prefill_began
        left = f", {passed / done * (total - done):.0f} s left" if 0 < done < total and passed > 1 else ""
        shown = passed > _STATUS_AFTER_SECONDS or total > done > 0
        self._status = f"Reading the conversation, {done:,} of {total:,} tokens{left}" if shown else None

    def _status_line(self, columns: int) -> list[Line]:
        status = self._status
        if self._part is ReasoningDelta:
            status = f"Reasoning {self._clock.seconds}, {self._clock.count}"
            if self._has_keys:
                status += "" if self._display is ReasoningDisplay.HIDE else " · Ctrl-O shows it"
                status += " · Ctrl-N answers now"
        if status is None or not self._has_status:
            return []
        # One column stays free for the cursor.
        return fold([Span(status, Role.DIM)], columns - 1)[:1]

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Draw in a thread during the block, since the thread that runs the turn may be busy for seconds."""
        done = threading.Event()
        errors: list[OSError] = []

        def draw() -> None:
            pause = _FRAME_SECONDS
            while not done.wait(pause):
                began = time.thread_time()
                try:
                    self.draw()
                except OSError as exc:
                    errors.append(exc)
                    return
                pause = max(_FRAME_SECONDS, _FRAME_PAUSE_FACTOR * (time.thread_time() - began))

        thread = threading.Thread(target=draw, name="screen", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        if errors:
            raise errors[0]
