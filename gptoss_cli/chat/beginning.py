"""The beginning of a conversation, whatever computes its model."""

from datetime import date

from gptoss_cli.chat.request import ChatRequest
from gptoss_cli.chat.session import ChatSession
from gptoss_cli.generation import TokenGenerator


def begin_session(generator: TokenGenerator, request: ChatRequest) -> ChatSession:
    """Return an empty conversation with a model."""
    return ChatSession(
        generator,
        instructions=request.instructions,
        effort=request.effort,
        date=request.date or date.today(),
        settings=request.settings,
    )
