"""What may come next in a turn: a small automaton over ids. It constrains headers and ends, never the words."""

from collections.abc import Iterable
from functools import cached_property
from typing import Final

from gptoss_cli.harmony.events import Channel
from gptoss_cli.harmony.vocabulary import (
    ANALYSIS,
    ANSWER_HEADER,
    ANSWER_NOW,
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
_HEADER_MARKS: Final = frozenset({START, CHANNEL, MESSAGE, CONSTRAIN})
_ENDS: Final = frozenset({END, RETURN, CALL, END_OF_TEXT})
_FUNCTIONS: Final = "functions."


class State:
    """A place in a turn: what may come, and where each id leads.

    `allowed` None: anything but what is `barred`. `to_answer` are the ids that lead from here into the final channel;
    none where an answer or a call is under way; None where the automaton has lost the thread.
    """

    def __init__(self, *, otherwise: "State | None" = None, to_answer: tuple[int, ...] | None = ()) -> None:
        self.next: dict[int, State] = {}
        self.otherwise = otherwise or self
        self.allowed: frozenset[int] | None = None
        self.barred: frozenset[int] = frozenset()
        self.to_answer = to_answer

    def after(self, token: int) -> "State":
        """Where `token` leads; every id leads somewhere."""
        return self.next.get(token) or self.otherwise.next.get(token, self.otherwise)

    @cached_property
    def forced(self) -> tuple[int, ...]:
        """The ids that come next without a choice."""
        ids: list[int] = []
        state = self
        while state.allowed is not None and len(state.allowed) == 1:
            ids.extend(state.allowed)
            state = state.after(ids[-1])
        return tuple(ids)


class Grammar:
    """The headers a model was trained to write, given the tools it was told of.

    - reasoning, a preamble and an answer: a channel, nothing else
    - a call: a recipient in the role part or in the channel part; `functions.` on commentary, built-in tools on
      analysis too; a content type, with or without `<|constrain|>`, or none

    A message ends with `<|end|>`; an answer with `<|return|>`, a call with `<|call|>`, since these end the turn. Where
    the model ends one of these with `<|end|>` nevertheless, the token that ends the turn must follow.
    """

    def __init__(self, recipients: Iterable[str] = ()) -> None:
        self._lost = State(to_answer=None)
        self._started = State(otherwise=self._lost, to_answer=ANSWER_HEADER[1:])
        self._between = State(otherwise=self._lost, to_answer=ANSWER_HEADER)
        self.start = State(otherwise=self._lost, to_answer=ANSWER_HEADER[2:])
        self.answer = self._content(self._over(RETURN), barred=_ENDS - {END, RETURN, END_OF_TEXT})
        self._reasoning = self._content(self._between, barred=_ENDS - {END}, to_answer=ANSWER_NOW)
        self._preamble = self._content(self._between, barred=_ENDS - {END})
        self._call = self._content(self._over(CALL), barred=_ENDS - {END, CALL})
        self._lost.next = {START: self._started} | dict.fromkeys(_ENDS, self._between)
        self._lead(self._between, START, self._started)
        self._lead(self._started, ASSISTANT, self.start)
        self._add_messages()
        for recipient in recipients:
            self._add_calls(recipient)

    def _content(self, end: State, *, barred: frozenset[int], to_answer: tuple[int, ...] = ()) -> State:
        """The content of a message. A mark that is barred still leads where it leads the parser."""
        state = State(to_answer=to_answer)
        state.barred = _HEADER_MARKS | barred
        state.next = {START: self._started, CHANNEL: self._lost} | dict.fromkeys(_ENDS, end)
        return state

    def _over(self, end: int) -> State:
        """After an `<|end|>` where `end` was due."""
        state = State(otherwise=self._lost)
        self._lead(state, end, self._lost)
        return state

    def _lead(self, state: State, token: int, to: State) -> None:
        state.next[token] = to
        state.allowed = (state.allowed or frozenset()) | {token}

    def _add_messages(self) -> None:
        contents = {
            Channel.ANALYSIS: self._reasoning,
            Channel.COMMENTARY: self._preamble,
            Channel.FINAL: self.answer,
        }
        for channel, content in contents.items():
            self._add((CHANNEL, *_CHANNEL_IDS[channel]), content)
        state = self.start
        for i, token in enumerate(ANSWER_HEADER[2:-1], start=3):
            state = state.next[token]
            state.to_answer = ANSWER_HEADER[i:]

    def _add_calls(self, recipient: str) -> None:
        to = _plain(f" to={recipient}")
        json, code = _plain("json"), _plain(" code")
        types = ((), _plain(" json"), (*_plain(" "), CONSTRAIN, *json), (CONSTRAIN, *json), code)
        channels = [Channel.COMMENTARY]
        if not recipient.startswith(_FUNCTIONS):
            channels.append(Channel.ANALYSIS)
        for channel in channels:
            name = (CHANNEL, *_CHANNEL_IDS[channel])
            for content_type in types:
                self._add((*to, *name, *content_type), self._call)
                self._add((*name, *to, *content_type), self._call)

    def _add(self, header: Iterable[int], content: State) -> None:
        """Make `header` legal after `<|start|>assistant`."""
        state = self.start
        for token in header:
            if token not in state.next:
                self._lead(state, token, State(otherwise=self._lost))
            state = state.next[token]
        self._lead(state, MESSAGE, content)


def _plain(text: str) -> tuple[int, ...]:
    return tuple(load_encoding().encode(text, disallowed_special=()))
