"""Work for the engine, made from a request: a chat turn, and the events that come out of it."""

import datetime
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from gptoss_cli.chat.session import ChatSession
from gptoss_cli.chat.stopping import apply_stop_conditions
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.generation import TokenGenerator
from gptoss_cli.harmony.conversation import Conversation
from gptoss_cli.harmony.events import Event, TurnEnd
from gptoss_cli.server.request_messages import RequestMessages
from gptoss_cli.settings import ReasoningEffort


class SequencePool(Protocol):
    """The KV sequences of a model. A job asks for the one that serves its prompt best."""

    @property
    def context_tokens(self) -> int:
        """The largest number of tokens in a sequence."""

    @property
    def sequences(self) -> int:
        """The number of sequences."""

    @property
    def threads(self) -> int:
        """The most threads that may use the pool at the same time."""

    def sequence(
        self, ids: Sequence[int], prefix_tokens: int = 0, *, is_private: bool = True
    ) -> AbstractContextManager[TokenGenerator]:
        """Return the sequence that should continue `ids`: the one that begins like it, or one that may be dropped.

        Within the block nobody else uses it. The first `prefix_tokens` ids begin other conversations too. They are not
        written to disk if they are private.
        """


class OneSequence:
    """A pool of a single sequence: whoever comes next continues it."""

    sequences = 1
    threads = 1

    def __init__(self, generator: TokenGenerator) -> None:
        self._generator = generator

    @property
    def context_tokens(self) -> int:
        """See SequencePool.context_tokens."""
        return self._generator.context_tokens

    def sequence(
        self, ids: Sequence[int], prefix_tokens: int = 0, *, is_private: bool = True
    ) -> AbstractContextManager[TokenGenerator]:
        """See SequencePool.sequence."""
        return nullcontext(self._generator)


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens and seconds of a job that has ended."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    first_token_seconds: float | None = None
    decode_seconds: float = 0.0

    @classmethod
    def of_turn(cls, end: TurnEnd) -> "Usage":
        """Return the usage of a chat turn."""
        first = end.first_token_seconds
        return cls(
            prompt_tokens=end.prompt_tokens,
            cached_tokens=end.prompt_tokens - end.prefilled_tokens,
            completion_tokens=end.reasoning_tokens + end.answer_tokens,
            reasoning_tokens=end.reasoning_tokens,
            first_token_seconds=first,
            decode_seconds=0.0 if first is None else end.total_seconds - first,
        )


class Job(Protocol):
    """Work that the engine does for one request."""

    @property
    def prompt(self) -> Sequence[int]:
        """The ids that are read first."""

    def run(self, pool: SequencePool, on_stop: Callable[[Callable[[], None]], None]) -> Generator[object]:
        """Do the work and yield its events.

        `on_stop` is called with a function that ends the work in order at the next token or prefill chunk; any thread
        may call that. Raises GptossError.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatJob:
    """A chat turn that answers `conversation`. `stop_texts` end the answer and are not part of it.

    The first `prefix_tokens` ids of `prompt` are those of the instructions and functions, if there are any, after what
    every conversation begins with.
    """

    conversation: Conversation
    settings: TurnSettings
    stop_texts: tuple[str, ...] = ()
    prompt: list[int] = field(default_factory=list)
    prefix_tokens: int = 0

    def run(self, pool: SequencePool, on_stop: Callable[[Callable[[], None]], None]) -> Generator[Event]:
        """See Job.run. The last event is the TurnEnd."""
        conversation = self.conversation
        is_private = bool(conversation.instructions or conversation.functions.declaration)
        with pool.sequence(self.prompt, self.prefix_tokens, is_private=is_private) as generator:
            session = ChatSession(
                generator,
                instructions=None,
                effort=conversation.effort,
                date=conversation.date,
                settings=self.settings,
            )
            session.conversation = conversation
            on_stop(session.stop)
            with closing(session.answer()) as events:
                yield from apply_stop_conditions(events, session.stop, stop_texts=self.stop_texts)


def chat_job(
    request: RequestMessages,
    settings: TurnSettings,
    *,
    effort: ReasoningEffort,
    date: datetime.date,
    stop_texts: tuple[str, ...] = (),
) -> ChatJob:
    """Return the job that answers the messages of a request. The instructions describe the output format."""
    described = settings.output.description if settings.output else ""
    text = "\n\n".join(part for part in (request.instructions, described) if part)
    conversation = Conversation(text, date, effort, request.functions)
    for message in request.messages:
        conversation.add(message)
    return ChatJob(
        conversation=conversation,
        settings=settings,
        stop_texts=stop_texts,
        prompt=conversation.render(),
        prefix_tokens=len(conversation.preface()),
    )
