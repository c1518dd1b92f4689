"""The settings of a turn. Imports no openai_harmony: the command line needs them before it shows anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

# For an annotation alone: it imports openai_harmony, which takes longer than the prompt of a chat may.
if TYPE_CHECKING:
    from gptoss_cli.harmony.structured_output import OutputFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSettings:
    """Settings of a turn.

    `seed` None draws one for each turn; TurnEnd.seed is the one that was drawn. `max_tokens` counts reasoning and
    answer together, `think_budget` the reasoning alone. With `free_headers` the model writes its message headers
    without constraint. `output` is the format that the answer must have, None for any.
    """

    seed: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    max_tokens: int | None = None
    think_budget: int | None = None
    free_headers: bool = False
    output: OutputFormat | None = None
