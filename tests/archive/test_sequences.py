"""Any sequence of turns, retries, forks and resumes, with a crash anywhere, is the same on disk as in memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_cli.archive.archive import Archive, Stored
from gptoss_cli.archive.recorder import Snapshot
from gptoss_cli.archive.saving import ArchiveRecorder
from gptoss_cli.harmony.events import (
    AnswerDelta,
    CallDelta,
    Channel,
    EndReason,
    Event,
    Message,
    MessageEnd,
    PreambleDelta,
    ReasoningDelta,
    Role,
)
from tests.archive.conversations import ORIGIN, complain, databases_in_memory, fork_of, snapshot, turn_end, user

_TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
_HEADERS = (
    (Channel.ANALYSIS, None),
    (Channel.COMMENTARY, None),
    (Channel.COMMENTARY, "functions.now"),
    (Channel.FINAL, None),
    (None, None),
)


def _deltas(message: Message) -> Iterator[Event]:
    make: Callable[[str], Event]
    if message.is_call and message.recipient is not None:
        recipient = message.recipient

        def make(text: str) -> Event:
            return CallDelta(recipient, text)
    elif message.is_reasoning:
        make = ReasoningDelta
    else:
        make = PreambleDelta if message.channel == Channel.COMMENTARY else AnswerDelta
    for i in range(0, len(message.text), 3):
        yield make(message.text[i : i + 3])
    if message.complete:
        yield MessageEnd(message)


@dataclass(frozen=True)
class _Turn:
    """Messages of the model, and after how many events the process is killed, None if it is not."""

    messages: tuple[Message, ...]
    killed_after: int | None

    @property
    def events(self) -> list[Event]:
        return [event for message in self.messages for event in _deltas(message)]


@st.composite
def _turns(draw: st.DrawFn) -> _Turn:
    headers = draw(st.lists(st.sampled_from(_HEADERS), max_size=4))
    interrupted = draw(st.booleans())
    messages = []
    for i, (channel, recipient) in enumerate(headers):
        complete = not interrupted or i < len(headers) - 1
        messages.append(Message(Role.ASSISTANT, draw(_TEXT), channel, recipient, complete=complete))
    turn = _Turn(tuple(messages), None)
    killed_after = draw(st.none() | st.integers(0, len(turn.events)))
    return replace(turn, killed_after=killed_after)


@dataclass(frozen=True)
class _Say:
    text: str
    turn: _Turn


@dataclass(frozen=True)
class _Retry:
    turn: _Turn


@dataclass(frozen=True)
class _Edit:
    text: str
    turn: _Turn


@dataclass(frozen=True)
class _Undo:
    pass


@dataclass(frozen=True)
class _Effort:
    effort: str


@dataclass(frozen=True)
class _Fork:
    after: int


@dataclass(frozen=True)
class _Resume:
    """An orderly end and a new start."""


@dataclass(frozen=True)
class _Kill:
    """A new start without an end."""


_Step = _Say | _Retry | _Edit | _Undo | _Effort | _Fork | _Resume | _Kill
_STEPS = st.lists(
    st.builds(_Say, _TEXT, _turns())
    | st.builds(_Retry, _turns())
    | st.builds(_Edit, _TEXT, _turns())
    | st.builds(_Undo)
    | st.builds(_Effort, st.sampled_from(("none", "low", "high")))
    | st.builds(_Fork, st.integers(0, 3))
    | st.builds(_Resume)
    | st.builds(_Kill),
    max_size=12,
)


def _tick() -> Callable[[], float]:
    """Return a clock by which every event is due to be saved."""
    return iter(range(0, 1 << 60, 2)).__next__


@dataclass
class _Chat:
    """A chat that is saved, and the same chat in memory."""

    path: Path
    messages: list[Message] = field(default_factory=list)
    effort: str = "low"
    # Every conversation that was seen on the screen, by the id under which it was saved.
    seen: list[tuple[str, tuple[Message, ...]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.archive = Archive(self.path, notice=complain)
        self.recorder = ArchiveRecorder(self.archive, ORIGIN, notice=complain, clock=_tick())

    def take(self, step: _Step) -> None:
        match step:
            case _Say(text, turn):
                self._turn(len(self.messages), [user(text)], turn)
            case _Retry(turn):
                self._turn(self._last_question(1), [], turn)
            case _Edit(text, turn):
                self._turn(self._last_question(0), [user(text)], turn)
            case _Undo():
                del self.messages[self._last_question(0) :]
                self.recorder.record(self._snapshot())
            case _Effort(effort):
                self.effort = effort
                self.recorder.record(self._snapshot())
            case _Fork(after):
                self._fork(after)
            case _Resume():
                self.archive.close()
                self._restart()
            case _Kill():
                self._restart()
        self._compare()

    def _turn(self, keep: int, new: list[Message], turn: _Turn) -> None:
        self.messages[keep:] = new
        if not self.messages:
            return
        self.recorder.record(self._snapshot())
        count = turn.killed_after
        for event in turn.events[:count]:
            self.recorder.listen(event)
        if count is not None:
            self.messages += _heard(turn.events[:count])
            self._restart()
            return
        self.messages += turn.messages
        complete = all(message.complete for message in turn.messages)
        end = turn_end(EndReason.COMPLETE if complete else EndReason.INTERRUPTED)
        self.recorder.finish(self._snapshot(), end)

    def _last_question(self, after: int) -> int:
        """Return the index of the user's last message, or the one behind it."""
        found = [i for i, message in enumerate(self.messages) if message.role is Role.USER]
        return found[-1] + after if found else 0

    def _fork(self, after: int) -> None:
        if self.recorder.conversation is None:
            return
        stored = self.archive.load(self.recorder.conversation)
        questions = [i for i, message in enumerate(self.messages) if message.role is Role.USER]
        if after > len(questions):
            return
        row = fork_of(self.archive, stored, stored.tip_after(after))
        del self.messages[questions[after] if after < len(questions) else len(self.messages) :]
        self._continue(self.archive.load(row.id))

    def _restart(self) -> None:
        conversation = self.recorder.conversation
        self.archive = Archive(self.path, notice=complain)
        if conversation is None:
            self.messages.clear()
            self.recorder = ArchiveRecorder(self.archive, ORIGIN, notice=complain, clock=_tick())
        else:
            self._continue(self.archive.load(conversation))

    def _continue(self, stored: Stored) -> None:
        self.effort = str(stored.row.settings["effort"])
        self.recorder = ArchiveRecorder(self.archive, ORIGIN, notice=complain, resumed=stored, clock=_tick())

    def _snapshot(self) -> Snapshot:
        return snapshot(*self.messages, settings={"effort": self.effort})

    def _compare(self) -> None:
        conversation = self.recorder.conversation
        if conversation is None:
            assert self.messages == []
            return
        stored = self.archive.load(conversation)
        assert list(stored.current) == self.messages
        assert stored.row.settings == {"effort": self.effort}
        self.seen.append((conversation, tuple(self.messages)))

    def assert_nothing_was_overwritten(self) -> None:
        for conversation, messages in self.seen:
            stored = self.archive.load(conversation)
            paths = {tuple(row.message for row in stored.path_to(each.id)) for each in stored.messages} | {()}
            assert messages in paths


def _heard(events: list[Event]) -> list[Message]:
    """Return the messages that were shown of a turn: the finished ones and the beginning of another one."""
    heard: list[Message] = []
    open_message = False
    for event in events:
        if isinstance(event, MessageEnd):
            heard[len(heard) - open_message :] = [event.message]
            open_message = False
            continue
        assert isinstance(event, ReasoningDelta | PreambleDelta | CallDelta | AnswerDelta)
        text = heard.pop().text if open_message else ""
        channel = {ReasoningDelta: Channel.ANALYSIS, AnswerDelta: Channel.FINAL}.get(type(event), Channel.COMMENTARY)
        recipient = event.recipient if isinstance(event, CallDelta) else None
        heard.append(Message(Role.ASSISTANT, text + event.text, channel, recipient, complete=False))
        open_message = True
    return heard


def _check(path: Path, steps: list[_Step]) -> None:
    chat = _Chat(path)
    for step in steps:
        chat.take(step)
    chat.assert_nothing_was_overwritten()
    assert chat.archive.check() == []
    chat.archive.close()


@pytest.fixture(scope="module")
def databases() -> Iterator[Iterator[Path]]:
    with databases_in_memory() as paths:
        yield paths


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=_STEPS)
def test_any_sequence_on_disk_is_the_same_as_in_memory(databases: Iterator[Path], steps: list[_Step]) -> None:
    _check(next(databases), steps)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=_STEPS)
def test_ten_thousand_sequences_are_the_same_as_in_memory(databases: Iterator[Path], steps: list[_Step]) -> None:
    _check(next(databases), steps)
