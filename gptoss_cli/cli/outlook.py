"""How the published models would run on a machine, before any of their files is there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptoss_cli.errors import GptossError

if TYPE_CHECKING:
    from gptoss_cli.engine.machine import Machine
    from gptoss_cli.engine.placement import Placement


@dataclass(frozen=True, slots=True)
class Outlook:
    """How one published model would run. Without room for it `problem` says so, and there is no placement."""

    name: str
    placement: "Placement | None"
    problem: str = ""

    def described(self) -> dict[str, Any]:
        """The placement or the problem as JSON values."""
        return {"problem": self.problem} if self.placement is None else self.placement.described()

    def reasons(self) -> Iterator[tuple[str, bool]]:
        """Why, in words, and whether that tells of something amiss."""
        if self.placement is None:
            yield self.problem, True
        else:
            yield from ((reason.text, reason.is_warning) for reason in self.placement.reasons)


def outlooks(machine: "Machine") -> Iterator[Outlook]:
    """One for every published model."""
    from gptoss_cli.checkpoint import catalog
    from gptoss_cli.engine.config import published_config
    from gptoss_cli.engine.placement import choose

    for model in catalog.MODELS:
        if model.published is not None:
            config = published_config(layers=model.published.layers, experts=model.published.experts)
            try:
                yield Outlook(model.name, choose(config, machine))
            except GptossError as exc:
                yield Outlook(model.name, None, str(exc))
