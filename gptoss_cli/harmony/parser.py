"""Incremental parsing of an assistant turn: token ids to events. No input raises, and no text is lost."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from openai_harmony import Role as HarmonyRole
from openai_harmony import StreamableParser, TextContent

from gptoss_cli.harmony.events import (
    AnswerDelta,
    CallDelta,
    Channel,
    Delta,
    Event,
    Markup,
    Message,
    MessageEnd,
    PreambleDelta,
    ReasoningDelta,
    Role,
)
from gptoss_cli.harmony.header import ANSWER, REASONING, is_header_prefix, read_header, split_unfinished
from gptoss_cli.harmony.vocabulary import CHANNEL, END, MESSAGE, START, STOP_IDS, VOCABULARY_SIZE, load_encoding

_MESSAGE_ENDS: Final = STOP_IDS | {END}
# A header with a long tool name takes 30 tokens; a longer one has lost its <|message|>.
_HEADER_LIMIT_TOKENS: Final = 64


class _Content:
    """The content of one message, decoded by openai_harmony's parser after an empty header.

    A parser per message: it keeps every id, and reading its `messages` takes time in proportion to all of them. Its
    `state`, `tokens` and `current_content` take longer with each token and are never read.
    """

    def __init__(self) -> None:
        self._parser = StreamableParser(load_encoding(), HarmonyRole.ASSISTANT, strict=False)
        self._parser.process(MESSAGE)
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """The text that was returned so far."""
        return "".join(self._parts)

    def feed(self, token: int) -> str:
        """Return the text that `token` completes; empty while a character is incomplete."""
        self._parser.process(token)
        text = self._parser.last_content_delta or ""
        self._parts.append(text)
        return text

    def close(self) -> str:
        """Return the pending text, which openai_harmony has in the finished message only."""
        self._parser.process(END)
        whole = self._parser.messages[-1].content[0]
        assert isinstance(whole, TextContent)
        rest = whole.text[sum(map(len, self._parts)) :]
        self._parts.append(rest)
        return rest


class TurnParser:
    """A parser of the ids that follow the prompt: `<|start|>assistant`, or the header of the answer if `answering`.

    Malformed turns are parsed as follows:

    - A header with unexpected words, two channels or another role: its text becomes a reasoning message (not
      `complete`), and the message that it opens follows.
    - A header without `<|message|>`: the rest of it is content of the channel it names, or else of an answer.
    - `<|start|>` or `<|channel|>` in content: the message ends and the next header starts.
    - Text after a message without `<|start|>`: the next header. A second end token: ignored.
    - Bytes that are not UTF-8: U+FFFD, as in `bytes.decode`.
    """

    def __init__(self, *, answering: bool = False) -> None:
        self._messages: list[Message] = []
        self._tokens = 0
        self._reasoning_tokens = 0
        self._header_ids: list[int] = []
        self._header_tokens = 0
        self._has_role = False
        self._default = ANSWER
        self._message = ANSWER
        self._content: _Content | None = None
        if answering:
            self._open(Message(Role.ASSISTANT, "", channel=Channel.FINAL))

    @property
    def messages(self) -> Sequence[Message]:
        """The messages that have ended."""
        return tuple(self._messages)

    @property
    def open_message(self) -> Message | None:
        """The message whose content is being parsed, its text still empty; None in a header."""
        return None if self._content is None else self._message

    @property
    def header_tokens(self) -> int:
        """Number of ids in the open header. They count as answer until its message is known."""
        return self._header_tokens

    @property
    def reasoning_tokens(self) -> int:
        """Number of ids of reasoning messages, headers and end tokens included."""
        return self._reasoning_tokens

    @property
    def answer_tokens(self) -> int:
        """Number of all other ids: answers, preambles, calls, and the open header."""
        return self._tokens - self._reasoning_tokens

    def feed(self, token: int) -> list[Event]:
        """Parse the next id and return its events: none while a header or a character is incomplete."""
        # openai_harmony decodes the first id after the vocabulary as "<|reserved_201088|>" and raises on higher ones.
        token = token if 0 <= token < VOCABULARY_SIZE else VOCABULARY_SIZE
        self._tokens += 1
        if token == START:
            return self._begin_header()
        if self._content is None:
            return self._feed_header(token)
        if token == CHANNEL:
            return self._restart_header()
        self._reasoning_tokens += _is_reasoning(self._message)
        if token in _MESSAGE_ENDS:
            return self._finish(complete=True) + _markup(token)
        text = self._content.feed(token)
        return [_delta(self._message, text)] if text else []

    def close(self) -> list[Event]:
        """End a turn that was cut off, and return the events of the pending text, as a message that is not `complete`.

        The beginning of a well-formed header is markup. A message without text is dropped.
        """
        if self._content is not None:
            return self._finish(complete=False)
        if not is_header_prefix(load_encoding().decode(self._header_ids)):
            return self._settle_header(complete=False)
        events = _markup(*self._header_ids)
        self._expect_header(has_role=False)
        return events

    def _begin_header(self) -> list[Event]:
        """Start a header after `<|start|>`; it ends what is open, even without an end token."""
        end = self._settle_header if self._content is None else self._finish
        events = end(complete=True)
        self._expect_header(has_role=True)
        self._header_tokens = 1
        return events + _markup(START)

    def _restart_header(self) -> list[Event]:
        """Start a header after `<|channel|>` in content; end token, `<|start|>` and role are missing."""
        default = self._message
        events = self._finish(complete=True)
        self._header_ids = [CHANNEL]
        self._header_tokens = 1
        self._default = default
        return events

    def _feed_header(self, token: int) -> list[Event]:
        self._header_tokens += 1
        if token == MESSAGE:
            return self._open_message()
        if token in _MESSAGE_ENDS:
            return self._settle_header(complete=True) + _markup(token)
        self._header_ids.append(token)
        if len(self._header_ids) < _HEADER_LIMIT_TOKENS:
            return []
        return self._open_unfinished()

    def _open_message(self) -> list[Event]:
        text = load_encoding().decode(self._header_ids)
        header = read_header(text, has_role=self._has_role, default=self._default)
        events = _markup(*self._header_ids, MESSAGE)
        if header.malformed:
            raw = replace(REASONING, text=text, complete=False)
            self._messages.append(raw)
            events = [ReasoningDelta(text), MessageEnd(raw), *_markup(MESSAGE)]
        self._open(header.message)
        return events

    def _open_unfinished(self) -> list[Event]:
        message, content_ids = split_unfinished(self._header_ids, self._default)
        events = _markup(*self._header_ids[: len(self._header_ids) - len(content_ids)])
        content = self._open(message)
        text = "".join(content.feed(token) for token in content_ids)
        return [*events, _delta(message, text)] if text else events

    def _settle_header(self, *, complete: bool) -> list[Event]:
        """End a header without `<|message|>`; text after its channel becomes a message."""
        _, content_ids = split_unfinished(self._header_ids, self._default)
        if load_encoding().decode(content_ids).strip():
            return self._open_unfinished() + self._finish(complete=complete)
        events = _markup(*self._header_ids)
        self._expect_header(has_role=False)
        return events

    def _open(self, message: Message) -> _Content:
        self._reasoning_tokens += self._header_tokens * _is_reasoning(message)
        self._expect_header(has_role=False)
        self._message = message
        self._content = _Content()
        return self._content

    def _finish(self, *, complete: bool) -> list[Event]:
        assert self._content is not None
        text = self._content.close()
        events: list[Event] = [_delta(self._message, text)] if text else []
        message = replace(self._message, text=self._content.text, complete=complete)
        self._content = None
        if complete or message.text:
            self._messages.append(message)
            events.append(MessageEnd(message))
        return events

    def _expect_header(self, *, has_role: bool) -> None:
        self._header_ids = []
        self._header_tokens = 0
        self._has_role = has_role
        self._default = ANSWER


def _is_reasoning(message: Message) -> bool:
    return message.is_reasoning and not message.is_call


def _markup(*ids: int) -> list[Event]:
    return [Markup(load_encoding().decode(ids))] if ids else []


def _delta(message: Message, text: str) -> Delta:
    if message.is_call:
        assert message.recipient is not None
        return CallDelta(message.recipient, text)
    if message.is_answer:
        return AnswerDelta(text)
    return ReasoningDelta(text) if message.is_reasoning else PreambleDelta(text)
