"""Answers to one question at several efforts, side by side. Nothing in them can control the terminal."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

from gptoss_cli.errors import ExitStatus
from gptoss_cli.harmony.events import TurnEnd
from gptoss_cli.settings import ReasoningEffort
from gptoss_cli.terminal.console import Console
from gptoss_cli.terminal.sanitize import neutralize


@dataclass(frozen=True, slots=True)
class EffortAnswer:
    """What was answered at one effort; `shortfall` and `remark` say why it is not whole, if it is not."""

    effort: ReasoningEffort
    text: str
    reasoning: str
    end: TurnEnd
    shortfall: ExitStatus | None
    remark: str


def show_answers(answers: Sequence[EffortAnswer], console: Console) -> None:
    """Write a table to stdout, one column for each answer. Raises what Console.out raises."""
    table = Table(expand=True)
    for answer in answers:
        table.add_column(answer.effort, ratio=1, overflow="fold")
    table.add_row(*(_cell(answer.text) for answer in answers), end_section=True)
    table.add_row(*(_cell(_cost(answer)) for answer in answers))
    # Plain text, which Console.out can neutralise once more.
    drawn = io.StringIO()
    RichConsole(file=drawn, width=console.stdout.columns, no_color=True, force_terminal=False).print(table)
    console.out(drawn.getvalue())


def _cell(text: str) -> Text:
    # As Text, since a plain string would be read as rich's markup.
    return Text(neutralize(text).expandtabs(4))


def _cost(answer: EffortAnswer) -> str:
    end = answer.end
    lines = [
        f"{end.reasoning_tokens:,} tokens of reasoning",
        f"{end.answer_tokens:,} of the answer",
        f"{end.total_seconds:.1f} s",
    ]
    if answer.remark:
        lines.append(answer.remark)
    return "\n".join(lines)
