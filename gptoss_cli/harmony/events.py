"""Messages, and the events of a turn: plain values without token ids and without types of other libraries."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """The author of a message."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Channel(StrEnum):
    """The channels gpt-oss was trained on. A model may write another one, so `Message.channel` is a string."""

    ANALYSIS = "analysis"
    COMMENTARY = "commentary"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class Message:
    """A Harmony message. `channel` None is an answer without a channel; `complete` is False if it was cut off."""

    role: Role
    text: str
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    name: str | None = None
    complete: bool = True

    @property
    def is_reasoning(self) -> bool:
        """True on the analysis channel, including calls and tool output there, and on an unknown channel."""
        return self.channel not in (None, Channel.COMMENTARY, Channel.FINAL)

    @property
    def is_call(self) -> bool:
        """True from the assistant to a tool. The final channel is always for the user."""
        return self.role is Role.ASSISTANT and self.recipient is not None and self.channel != Channel.FINAL

    @property
    def is_answer(self) -> bool:
        """True from the assistant to the user, on the final channel or without a channel."""
        return self.role is Role.ASSISTANT and self.channel in (None, Channel.FINAL) and not self.is_call


class EndReason(StrEnum):
    """The reason why a turn ended. LOOP: the text to the user repeated itself.

    STOP_TEXT and TIMEOUT are interruptions that were requested before the turn.
    """

    COMPLETE = "complete"
    CALL = "call"
    TOKEN_LIMIT = "token limit"
    CONTEXT_FULL = "context full"
    LOOP = "loop"
    STOP_TEXT = "stop text"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    NUMERICAL_FAILURE = "numerical failure"


class Cut(StrEnum):
    """The reason why the reasoning was ended and the answer started."""

    ANSWER_NOW = "answer now"
    BUDGET = "budget"
    LOOP = "loop"


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """Prefill progress: `done_tokens` of `total_tokens`. Cached tokens count in neither."""

    done_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Text of the analysis channel, or of an unknown channel."""

    text: str


@dataclass(frozen=True, slots=True)
class PreambleDelta:
    """Text of the commentary channel for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """Text of a message to a tool."""

    recipient: str
    text: str


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """Text of the final channel, or of a message without a channel."""

    text: str


@dataclass(frozen=True, slots=True)
class Markup:
    """Text of Harmony itself: headers and end tokens, which no screen shows.

    The texts of all events of a turn, in order and with these, are the decoded turn.
    """

    text: str


@dataclass(frozen=True, slots=True)
class MessageEnd:
    """The end of an assistant message."""

    message: Message


@dataclass(frozen=True, slots=True)
class ReasoningCut:
    """The end of the reasoning after `reasoning_tokens`: the header of the answer is forced next."""

    cut: Cut
    reasoning_tokens: int


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The end of a turn. Seconds are wall time since the turn started.

    `answered`: there is an answer that is not blank. `cuts`: the cuts of the reasoning, in order. `expert_hit_rate`:
    the fraction of the active experts, since the model was loaded, that were found in GPU memory; None if all of the
    experts are there.
    """

    reason: EndReason
    answered: bool
    cuts: tuple[ReasoningCut, ...]
    prompt_tokens: int
    prefilled_tokens: int
    reasoning_tokens: int
    answer_tokens: int
    seed: int
    first_token_seconds: float | None
    total_seconds: float
    expert_hit_rate: float | None = None

    @property
    def prefill_rate(self) -> float | None:
        """Prefill tokens per second; None if nothing was prefilled or no token was generated."""
        return _rate(self.prefilled_tokens, self.first_token_seconds)

    @property
    def decode_rate(self) -> float | None:
        """Decoded tokens per second after the first token; None if there is no second token."""
        if self.first_token_seconds is None:
            return None
        tokens = self.reasoning_tokens + self.answer_tokens - 1
        return _rate(tokens, self.total_seconds - self.first_token_seconds)


def _rate(tokens: int, seconds: float | None) -> float | None:
    return tokens / seconds if seconds and tokens > 0 else None


Delta = ReasoningDelta | PreambleDelta | CallDelta | AnswerDelta
Event = PrefillProgress | Delta | Markup | MessageEnd | ReasoningCut | TurnEnd
