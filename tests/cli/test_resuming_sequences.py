"""Whatever was said, taken back or cut short: a conversation from the disk renders to the ids that it had in memory."""

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_cli.archive.archive import Archive
from gptoss_cli.archive.saving import ArchiveRecorder
from gptoss_cli.chat.request import ChatRequest
from gptoss_cli.chat.session import ChatSession
from gptoss_cli.cli.resuming import Resumed, find_stored
from gptoss_cli.harmony.events import Role
from gptoss_cli.harmony.vocabulary import load_encoding
from gptoss_cli.settings import ReasoningEffort
from tests.archive.conversations import ORIGIN, complain, databases_in_memory
from tests.cli.scripted_program import opened_with
from tests.scripted_generator import ScriptedGenerator

_ANSWERS = (
    "<|channel|>analysis<|message|>Light.<|end|><|start|>assistant<|channel|>final<|message|>Blue.<|return|>",
    "<|channel|>final<|message|>Red 🙂 and \x1b green.<|return|>",
    "<|channel|>commentary to=functions.look<|message|>{}<|call|>",
)
_SEQUENCES = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.text(max_size=8).filter(str.strip), st.none() | st.integers(1, 12)),
        st.tuples(st.sampled_from(("retry", "undo", "resume", "fork"))),
        st.tuples(st.just("effort"), st.sampled_from(ReasoningEffort)),
        st.tuples(st.just("instructions"), st.sampled_from((None, "Be brief.", " "))),
    ),
    max_size=12,
)


class _Talk:
    """A conversation that is saved in the database `path`."""

    def __init__(self, path: Path) -> None:
        self.archive = Archive(path, notice=complain)
        encode = load_encoding().encode
        turns = [encode(each, allowed_special="all") for each in _ANSWERS]
        self._generator = ScriptedGenerator(itertools.cycle(turns))
        self.session: ChatSession = opened_with(self._generator, ChatRequest(instructions="Be kind.")).session
        self.recorder = ArchiveRecorder(self.archive, ORIGIN, notice=complain)
        self.session.recorder = self.recorder

    def say(self, text: str, events: int | None) -> None:
        """Send a message, and leave the turn after so many events."""
        with closing(self.session.turn(text)) as turn:
            list(itertools.islice(turn, events))

    def retry(self) -> None:
        if users := self._users():
            self.session.keep_messages(users[-1] + 1)
            list(self.session.answer())

    def undo(self) -> None:
        if users := self._users():
            self.session.keep_messages(users[-1])

    def effort(self, effort: ReasoningEffort) -> None:
        self.session.set_effort(effort)

    def instructions(self, text: str | None) -> None:
        self.session.conversation.instructions = text
        self.session.recorder.record(self.session.snapshot())

    def resume(self, *, fork: bool = False) -> None:
        """Begin again from the disk, without having ended anything in order."""
        if self.recorder.conversation is None:
            return
        before = self.session.conversation
        self.archive.close()
        resumed = Resumed(find_stored(self.archive, self.recorder.conversation, fork=fork))
        request = resumed.request(ChatRequest())
        self.session = resumed.open(lambda each: opened_with(self._generator, each), request).session
        self.recorder = ArchiveRecorder(self.archive, ORIGIN, notice=complain, resumed=resumed.stored)
        self.session.recorder = self.recorder
        after = self.session.conversation
        assert after.render() == before.render()
        assert (after.messages, after.effort, after.date) == (before.messages, before.effort, before.date)

    def fork(self) -> None:
        self.resume(fork=True)

    def _users(self) -> list[int]:
        messages = self.session.conversation.messages
        return [i for i, message in enumerate(messages) if message.role is Role.USER]


def _play(path: Path, sequence: list[tuple[object, ...]]) -> None:
    talk = _Talk(path)
    for name, *arguments in sequence:
        getattr(talk, str(name))(*arguments)
    talk.resume()
    assert talk.archive.check() == []
    talk.archive.close()


@pytest.fixture(scope="module")
def databases() -> Iterator[Iterator[Path]]:
    with databases_in_memory() as paths:
        yield paths


@settings(max_examples=300, deadline=None)
@given(sequence=_SEQUENCES)
def test_any_sequence_renders_to_the_same_ids_from_the_disk(
    databases: Iterator[Path], sequence: list[tuple[object, ...]]
) -> None:
    _play(next(databases), sequence)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(sequence=_SEQUENCES)
def test_ten_thousand_sequences_render_to_the_same_ids(
    databases: Iterator[Path], sequence: list[tuple[object, ...]]
) -> None:
    _play(next(databases), sequence)
