"""How the published models would run on a machine, before any of their files is there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptoss_cli.errors import GptossError

if TYPE_CHECKING:
    from gptoss_cli.placement.hardware import Hardware
    from gptoss_cli.placement.placement import Placement


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """How one published model would run. Without room for it `problem` says so, and there is no placement."""

    name: str
    placement: "Placement | None"
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """The placement or the problem as JSON values."""
        return {"problem": self.problem} if self.placement is None else self.placement.to_json()

    def reasons(self) -> Iterator[tuple[str, bool]]:
        """Why, in words, and whether that tells of something amiss."""
        if self.placement is None:
            yield self.problem, True
        else:
            yield from ((reason.text, reason.is_warning) for reason in self.placement.reasons)


def outlooks(machine: "Hardware") -> Iterator[PlannedModel]:
    """One for every published model."""
    from gptoss_cli.checkpoint import catalog
    from gptoss_cli.placement.choose import choose
    from gptoss_cli.placement.model_config import published_config

    for model in catalog.MODELS:
        if model.published is not None:
            config = published_config(layers=model.published.layers, experts=model.published.experts)
            try:
                yield PlannedModel(model.name, choose(config, machine))
            except GptossError as exc:
                yield PlannedModel(model.name, None, str(exc))
