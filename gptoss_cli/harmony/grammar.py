"""The Harmony format as an automaton over token ids: it constrains headers and end tokens, never content."""

from collections.abc import Iterable
from functools import cached_property
from typing import Final, Self

from gptoss_cli.harmony.events import Channel
from gptoss_cli.harmony.vocabulary import (
    ANALYSIS,
    ANSWER_HEADER,
    ASSISTANT,
    CALL,
    CHANNEL,
    COMMENTARY,
    CONSTRAIN,
    END,
    END_OF_TEXT,
    FINAL,
    MESSAGE,
    RETURN,
    START,
    load_encoding,
)

_CHANNEL_IDS: Final = {Channel.ANALYSIS: ANALYSIS, Channel.COMMENTARY: COMMENTARY, Channel.FINAL: FINAL}
_HEADER_TOKENS: Final = frozenset({START, CHANNEL, MESSAGE, CONSTRAIN})
_END_TOKENS: Final = frozenset({END, RETURN, CALL, END_OF_TEXT})
_TO: Final = " to"
_FUNCTION_PREFIX: Final = "functions."


class State:
    """A position in a turn: the ids that may come next, and the state that each id leads to.

    Any id but the `banned` ones may come next if `allowed` is None. `to_answer` are the ids that lead from here to the
    content of the final channel: empty inside an answer or a call, None in a malformed part of the turn. For an id that
    is not in `next`, the transition of `fallback` applies; if that has none either, `fallback` is the next state.
    """

    def __init__(self, *, fallback: Self | None = None, to_answer: tuple[int, ...] | None = ()) -> None:
        self.next: dict[int, Self] = {}
        self.fallback: Self = fallback or self
        self.allowed: frozenset[int] | None = None
        self.banned: frozenset[int] = frozenset()
        self.to_answer = to_answer

    def after(self, token: int) -> Self:
        """Return the state after `token`. Every id has one, malformed turns included."""
        return self.next.get(token) or self.fallback.next.get(token, self.fallback)

    @cached_property
    def forced(self) -> tuple[int, ...]:
        """The ids that must come next: all of them until the model has a choice."""
        ids: list[int] = []
        state = self
        while state.allowed is not None and len(state.allowed) == 1:
            ids.extend(state.allowed)
            state = state.after(ids[-1])
        return tuple(ids)


class Grammar:
    """The headers that gpt-oss was trained to write, for the tools that the prompt declares.

    - Reasoning, a preamble, an answer: a channel and nothing else.
    - A call: a recipient in the role part or in the channel part, then a content type, with or without
      `<|constrain|>`, or none. `functions.*` are called on commentary, built-in tools on analysis too.

    With `must_call` there is no answer: a call follows the first message of reasoning, and `to_answer` leads to it.
    A model that wants to answer would else reason again and again. Without `reasoning` there is none.

    A message ends with `<|end|>`. An answer ends with `<|return|>` and a call with `<|call|>`, which end the turn; if
    the model ends one of them with `<|end|>`, the token that ends the turn is forced next.
    """

    def __init__(self, recipients: Iterable[str] = (), *, must_call: bool = False, reasoning: bool = True) -> None:
        assert not must_call or recipients, "a call needs a recipient"
        self._must_call = must_call
        goal = (*ANSWER_HEADER[:2], _encode(_TO)[0]) if must_call else ANSWER_HEADER
        self._malformed = State(to_answer=None)
        self._started = State(fallback=self._malformed, to_answer=goal[1:])
        self._between_messages = State(fallback=self._malformed, to_answer=goal)
        self.start = State(fallback=self._malformed, to_answer=goal[2:])
        # The header of every message but the first.
        self._later = State(fallback=self._malformed, to_answer=goal[2:]) if must_call else self.start
        self.answer = self._content(self._ended(RETURN), banned=_END_TOKENS - {END, RETURN, END_OF_TEXT})
        self._reasoning = self._content(self._between_messages, banned=_END_TOKENS - {END}, to_answer=(END, *goal))
        self._preamble = self._content(self._between_messages, banned=_END_TOKENS - {END})
        self._call = self._content(self._ended(CALL), banned=_END_TOKENS - {END, CALL})
        self._malformed.next = {START: self._started} | dict.fromkeys(_END_TOKENS, self._between_messages)
        self._add_edge(self._between_messages, START, self._started)
        self._add_edge(self._started, ASSISTANT, self._later)
        self._add_messages(reasoning=reasoning)
        for recipient in recipients:
            self._add_calls(recipient)

    def _content(self, end: State, *, banned: frozenset[int], to_answer: tuple[int, ...] = ()) -> State:
        """Return the state of a message's content. Banned special tokens lead where the parser continues."""
        state = State(to_answer=to_answer)
        state.banned = _HEADER_TOKENS | banned
        state.next = {START: self._started, CHANNEL: self._malformed} | dict.fromkeys(_END_TOKENS, end)
        return state

    def _ended(self, end: int) -> State:
        """Return the state after an `<|end|>` in the place of `end`."""
        state = State(fallback=self._malformed)
        self._add_edge(state, end, self._malformed)
        return state

    def _add_edge(self, state: State, token: int, to: State) -> None:
        state.next[token] = to
        state.allowed = (state.allowed or frozenset()) | {token}

    def _add_messages(self, *, reasoning: bool) -> None:
        contents = {} if self._must_call else {Channel.COMMENTARY: self._preamble, Channel.FINAL: self.answer}
        if reasoning:
            contents[Channel.ANALYSIS] = self._reasoning
        for channel, content in contents.items():
            self._add_header(self.start, (CHANNEL, *_CHANNEL_IDS[channel]), content)
        if self._must_call:
            return
        state = self.start
        for i, token in enumerate(ANSWER_HEADER[2:-1], start=3):
            state = state.next[token]
            state.to_answer = ANSWER_HEADER[i:]

    def _add_calls(self, recipient: str) -> None:
        to = _encode(f"{_TO}={recipient}")
        json, code = _encode("json"), _encode(" code")
        types = ((), _encode(" json"), (*_encode(" "), CONSTRAIN, *json), (CONSTRAIN, *json), code)
        channels = [Channel.COMMENTARY]
        if not recipient.startswith(_FUNCTION_PREFIX):
            channels.append(Channel.ANALYSIS)
        for channel in channels:
            name = (CHANNEL, *_CHANNEL_IDS[channel])
            for content_type in types:
                for state in {self.start, self._later}:
                    self._add_header(state, (*to, *name, *content_type), self._call)
                    self._add_header(state, (*name, *to, *content_type), self._call)

    def _add_header(self, state: State, header: Iterable[int], content: State) -> None:
        """Allow `header` after `<|start|>assistant`, where `state` is."""
        for token in header:
            if token not in state.next:
                self._add_edge(state, token, State(fallback=self._malformed))
            state = state.next[token]
        self._add_edge(state, MESSAGE, content)


def _encode(text: str) -> tuple[int, ...]:
    return tuple(load_encoding().encode(text, disallowed_special=()))
