"""The model that is served, and the choices that were made when the server was started."""

import datetime
from dataclasses import dataclass, field

from gptoss_cli.server.models import check_model
from gptoss_cli.settings import ReasoningEffort, ReasoningField


@dataclass(frozen=True, slots=True)
class Served:
    """A model that is served under `name`. `effort` is that of requests that name none, `date` that of the
    system message.
    """

    name: str
    context_tokens: int
    effort: ReasoningEffort = ReasoningEffort.MEDIUM
    reasoning: ReasoningField = ReasoningField.REASONING
    date: datetime.date = field(default_factory=datetime.date.today)

    @property
    def reasoning_field(self) -> str | None:
        """The name of the field with the reasoning, None if it is left out."""
        return None if self.reasoning is ReasoningField.NONE else str(self.reasoning)

    def check_model(self, requested: str | None) -> None:
        """Raise ApiError if a request names another model."""
        check_model(requested, self.name)
