"""The data that passes between a turn and whoever shows it. Plain values: no ids, no library types."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Channel(StrEnum):
    """The channels gpt-oss was trained on. A message may carry another one, so messages keep a plain string."""

    ANALYSIS = "analysis"
    COMMENTARY = "commentary"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class Message:
    """One Harmony message. `channel` None is an answer without a channel; `complete` False was cut off."""

    role: Role
    text: str
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    name: str | None = None
    complete: bool = True

    @property
    def is_reasoning(self) -> bool:
        """On the analysis channel, calls and tool output there included, or on a channel nobody knows."""
        return self.channel not in (None, Channel.COMMENTARY, Channel.FINAL)

    @property
    def is_call(self) -> bool:
        """From the assistant to a tool. Whatever stands on the final channel is for the user."""
        return self.role is Role.ASSISTANT and self.recipient is not None and self.channel != Channel.FINAL

    @property
    def is_answer(self) -> bool:
        """From the assistant to the user, on the final channel or on none."""
        return self.role is Role.ASSISTANT and self.channel in (None, Channel.FINAL) and not self.is_call


class EndReason(StrEnum):
    """Why a turn ended. LOOP: what it said to the user went round in circles.

    STOP_TEXT and TIMEOUT are an interruption that was ordered beforehand.
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
    """Why the reasoning was cut short and the answer begun."""

    ANSWER_NOW = "answer now"
    BUDGET = "budget"
    LOOP = "loop"


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """`done_tokens` of `total_tokens` of the prompt have been read; cached tokens are in neither."""

    done_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Text of the analysis channel, or of a channel nobody knows."""

    text: str


@dataclass(frozen=True, slots=True)
class PreambleDelta:
    """Text of the commentary channel that is addressed to the user."""

    text: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """Text of a message addressed to a tool."""

    recipient: str
    text: str


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """Text of the final channel, or of a message without a channel."""

    text: str


@dataclass(frozen=True, slots=True)
class Markup:
    """Harmony's own text: headers and the ends of messages. A screen shows none of it.

    With it, the texts of a turn's events are all that was decoded, in order.
    """

    text: str


@dataclass(frozen=True, slots=True)
class MessageEnd:
    """One message of the assistant is over."""

    message: Message


@dataclass(frozen=True, slots=True)
class ReasoningCut:
    """The reasoning ends here, after `reasoning_tokens`: the ids that open the answer are being forced."""

    cut: Cut
    reasoning_tokens: int


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The turn is over. Seconds are wall time since the turn began.

    `answered`: there is an answer, and not a blank one. `cuts`: what was done to the reasoning, in order.
    `expert_hit_rate`: the share of the experts decoded with since the model was loaded that lay in the GPU's memory,
    None where all of them do.
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
        """Tokens per second of the prefill, None if nothing was prefilled or no token came."""
        return _rate(self.prefilled_tokens, self.first_token_seconds)

    @property
    def decode_rate(self) -> float | None:
        """Tokens per second after the first one, None if there is no second."""
        if self.first_token_seconds is None:
            return None
        tokens = self.reasoning_tokens + self.answer_tokens - 1
        return _rate(tokens, self.total_seconds - self.first_token_seconds)


def _rate(tokens: int, seconds: float | None) -> float | None:
    return tokens / seconds if seconds and tokens > 0 else None


Delta = ReasoningDelta | PreambleDelta | CallDelta | AnswerDelta
Event = PrefillProgress | Delta | Markup | MessageEnd | ReasoningCut | TurnEnd
