"""Descriptions of a chat to open and of what was opened. Imports no torch: the command line builds them at once."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from gptoss_cli.chat.session import ChatSession, TurnSettings
from gptoss_cli.placement.request import PlacementRequest
from gptoss_cli.settings import ReasoningEffort

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A model and a conversation to begin with it.

    `model` None is the first real one that is installed, else the demo. `instructions` is the text itself. With
    `prefix_cache` the KV cache of the messages that every chat begins with is kept on disk.
    """

    model: str | None = None
    placement: PlacementRequest = field(default_factory=PlacementRequest)
    instructions: str | None = None
    effort: ReasoningEffort = ReasoningEffort.MEDIUM
    date: datetime.date | None = None
    settings: TurnSettings = field(default_factory=TurnSettings)
    prefix_cache: bool = True


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that answers, and how it is computed. `revision` is the commit of its checkpoint, None if unknown."""

    model: str
    revision: str | None = None
    execution: str = "cpu"
    device: str = "cpu"
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A conversation that can begin, and the model that answers in it."""

    session: ChatSession
    info: ModelInfo


class OpenModel(Protocol):
    """A function that opens models: `chat.opening.open_model`, or a fake of it."""

    def __call__(self, request: ChatRequest, *, progress: Say, notice: Say) -> OpenedModel:
        """Find the model, load it and begin a conversation.

        `progress` is told what takes long, `notice` what the user should know. Raises GptossError.
        """
