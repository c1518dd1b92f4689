"""Conversations with a fake server, and the waiting for what it notices."""

import datetime
import time
from collections.abc import Callable, Sequence
from typing import Any

from gptoss_cli.chat.remote_opening import connect
from gptoss_cli.chat.session import ChatSession
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.errors import Hint
from gptoss_cli.generation import TokenGenerator
from gptoss_cli.harmony.vocabulary import load_encoding
from gptoss_cli.remote.generator import RemoteGenerator
from gptoss_cli.remote.request import ServerRequest
from gptoss_cli.settings import ReasoningEffort
from tests.remote.fake_servers import FakeServer
from tests.scripted_generator import ScriptedGenerator

SECONDS = 10

# What a model of random weights is made to begin with, and the answer that is asked of it.
ANALYSIS = [200006, 173781, 200005, 35644, 200008]
PERSON_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "known": {"type": "boolean"}},
    "required": ["name", "known"],
    "additionalProperties": False,
}


def ids_of(text: str) -> list[int]:
    """Return the ids of a text with the markers of Harmony in it."""
    return load_encoding().encode(text, allowed_special="all")


def scripted(*turns: str, context_tokens: int = 4096) -> Callable[[], TokenGenerator]:
    """Return a function that makes a generator which plays `turns`, one for each request; the last one repeats."""
    left = list(turns)

    def make() -> TokenGenerator:
        return ScriptedGenerator([ids_of(left.pop(0) if len(left) > 1 else left[0])], context_tokens=context_tokens)

    return make


class Continuing:
    """Makes models that always want to say the same: each goes on from the ids that were said already."""

    def __init__(self, text: str | list[int], *, after: int, context_tokens: int = 4096) -> None:
        self.ids = ids_of(text) if isinstance(text, str) else text
        self.after = after
        self.context_tokens = context_tokens

    def __call__(self) -> TokenGenerator:
        return _Continuing(self.ids, self.after, self.context_tokens)


class _Continuing(ScriptedGenerator):
    def __init__(self, ids: list[int], after: int, context_tokens: int) -> None:
        super().__init__([], context_tokens=context_tokens)
        self._said = ids
        self._after = after

    def decode(self, *arguments: Any, **options: Any) -> Any:
        """See TokenGenerator.decode."""
        self._turns = iter([self._said[len(self.sequence) - self._after :]])
        return super().decode(*arguments, **options)


def speaking(*turns: str, context_tokens: int = 4096) -> Callable[[], TokenGenerator]:
    """Return a function that makes models which say one of `turns` after each message of the user."""
    return lambda: _Speaking(turns, context_tokens)


class _Speaking(ScriptedGenerator):
    def __init__(self, turns: Sequence[str], context_tokens: int) -> None:
        super().__init__([], context_tokens=context_tokens)
        self._texts = turns

    def decode(self, *arguments: Any, **options: Any) -> Any:
        """See TokenGenerator.decode."""
        ids, asks, answers = list(self.sequence), ids_of("<|start|>user"), ids_of("<|start|>assistant")
        asked = [place for place in range(len(ids)) if ids[place : place + len(asks)] == asks]
        starts = (place for place in range(asked[-1], len(ids)) if ids[place : place + len(answers)] == answers)
        begun = next(starts) + len(answers)
        self._turns = iter([ids_of(self._texts[(len(asked) - 1) % len(self._texts)])[len(ids) - begun :]])
        return super().decode(*arguments, **options)


class Notices:
    """The notices of a connection."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str, *hints: Hint, subject: str = "") -> None:
        self.texts.append(text)


def generator_of(server: FakeServer, *, notice: Notices | None = None, **request: Any) -> RemoteGenerator:
    """Return a generator over a server."""
    return connect(ServerRequest(server.url, **request), None, notice or Notices())[1]


def session_of(
    generator: TokenGenerator, *, effort: ReasoningEffort = ReasoningEffort.LOW, **settings: Any
) -> ChatSession:
    """Return a conversation on a day that does not change."""
    return ChatSession(
        generator,
        instructions=None,
        effort=effort,
        date=datetime.date(2025, 8, 5),
        settings=TurnSettings(**settings),
    )


def wait_until(condition: Callable[[], bool]) -> float:
    """Wait for a condition and return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + SECONDS
        time.sleep(0.005)
    return time.monotonic() - began
