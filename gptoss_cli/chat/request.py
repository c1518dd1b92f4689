"""Descriptions of a chat to open and of an opened one.

Imports neither torch nor openai_harmony: the command line needs these before it shows anything.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from gptoss_cli.cache_files import KV_LIMIT_BYTES
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.errors import Hint
from gptoss_cli.placement.request import PlacementRequest
from gptoss_cli.remote.request import ServerRequest
from gptoss_cli.settings import ReasoningEffort

# For annotations alone: the first imports openai_harmony, which takes longer than the prompt of a chat may.
if TYPE_CHECKING:
    from gptoss_cli.chat.session import ChatSession
    from gptoss_cli.generation import AttentionMeasurement, BranchingGenerator

Say = Callable[[str], None]


class Notify(Protocol):
    """A function that shows a line the user should know."""

    def __call__(self, text: str, *hints: Hint, subject: str = "") -> None:
        """Show `text`, without a final full stop if hints follow. See GptossError for `hints` and `subject`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A model and a conversation to begin with it.

    `model` None is the first published one that is installed, else the demo. `instructions` is the text itself.
    `date` None is today. KV caches on disk take at most `kv_limit_bytes`; 0 keeps none.
    `server` answers instead of a model on this machine: then `model` and `placement` count for nothing but the context.
    If it `is_private`, none is kept of `instructions`: the text could be reconstructed from it.
    With `every_reason` the notices explain the whole placement, otherwise they are its warnings alone.
    """

    model: str | None = None
    placement: PlacementRequest = field(default_factory=PlacementRequest)
    instructions: str | None = None
    effort: ReasoningEffort = ReasoningEffort.MEDIUM
    date: datetime.date | None = None
    settings: TurnSettings = field(default_factory=TurnSettings)
    kv_limit_bytes: int = KV_LIMIT_BYTES
    is_private: bool = False
    every_reason: bool = False
    server: ServerRequest | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that answers, and how it is computed. `revision` is the commit of its checkpoint, None if unknown.

    `server` is the address of the server that computes it, None for this machine. `cache_bytes` is the size of its KV
    caches when they are full, 0 if they are elsewhere.
    """

    model: str
    revision: str | None = None
    execution: str = "cpu"
    device: str = "cpu"
    dtype: str | None = None
    cache_bytes: int = 0
    server: str | None = None


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A conversation that can begin, and the model that answers in it.

    `measure_attention` reads the ids of a prompt and yields a measurement for each layer; None if the model cannot.
    `branching` is the generator of the session if the placement has several sequences, else None.
    """

    session: ChatSession
    info: ModelInfo
    measure_attention: Callable[[Sequence[int]], Iterator[AttentionMeasurement]] | None = None
    branching: BranchingGenerator | None = None


class OpenModel(Protocol):
    """A function that opens models: `chat.opening.open_model`, or a fake of it."""

    def __call__(self, request: ChatRequest, *, progress: Say, notice: Notify) -> OpenedModel:
        """Find the model, load it and begin a conversation.

        `progress` is called with a line about each step that takes long. Raises GptossError.
        """
