"""Tables and bars on stdout. Nothing in them can control the terminal."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gptoss_cli.errors import ExitStatus
from gptoss_cli.harmony.events import TurnEnd
from gptoss_cli.settings import ReasoningEffort
from gptoss_cli.terminal.console import Console
from gptoss_cli.terminal.sanitize import neutralize
from gptoss_cli.units import counted

# Distinguishable without colour; the last one is for what is free.
_FILLS = "█▓▒▚·"
_INDENT = "  "


@dataclass(frozen=True, slots=True)
class EffortAnswer:
    """The answer at one effort. `exit_status` and `note` say why it is incomplete, if it is."""

    effort: ReasoningEffort
    text: str
    reasoning: str
    end: TurnEnd
    exit_status: ExitStatus | None
    note: str


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """One use of a memory: its name, its size in bytes, and the size in words."""

    name: str
    size_bytes: int
    size_words: str


def show_table(rows: Mapping[str, str], note: str, console: Console) -> None:
    """Write a table of names and values to stdout, with `note` below it. Raises what Console.out raises."""
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(Text(name), Text(neutralize(value)))
    _print(console, table, Text(note))


def show_answers(answers: Sequence[EffortAnswer], console: Console) -> None:
    """Write a table of answers to stdout, one per column. Raises what Console.out raises."""
    table = Table(expand=True)
    for answer in answers:
        table.add_column(answer.effort, ratio=1, overflow="fold")
    table.add_row(*(_cell(answer.text) for answer in answers), end_section=True)
    table.add_row(*(_cell(_cost(answer)) for answer in answers))
    _print(console, table)


def memory_bar(title: str, parts: Sequence[MemoryPart], columns: int) -> str:
    """Draw at most five `parts` as a bar to scale with a legend below it, in lines of at most `columns`."""
    assert len(parts) <= len(_FILLS)
    filled = [(fill, part) for fill, part in zip(_FILLS, parts, strict=False) if part.size_bytes > 0]
    width = max(len(filled), columns - 2)
    counts = _apportion([part.size_bytes for _, part in filled], width)
    bar = "".join(fill * count for (fill, _), count in zip(filled, counts, strict=True))
    legend = [f"{fill} {part.name} {part.size_words}" for fill, part in filled]
    return "\n".join((title, f"[{bar}]", *_pack(legend, columns)))


def _print(console: Console, *shown: RenderableType) -> None:
    # As plain text, since Console.out neutralises escape sequences.
    text = io.StringIO()
    rich = RichConsole(file=text, width=console.stdout.columns, no_color=True, force_terminal=False)
    for each in shown:
        rich.print(each)
    console.out(text.getvalue())


def _cell(text: str) -> Text:
    # As Text, since rich would read markup in a plain string.
    return Text(neutralize(text).expandtabs(4))


def _cost(answer: EffortAnswer) -> str:
    end = answer.end
    lines = [
        f"{counted(end.reasoning_tokens, 'token')} of reasoning",
        f"{counted(end.answer_tokens, 'token')} of answer",
        f"{end.total_seconds:.1f} s",
    ]
    return "\n".join([*lines, answer.note] if answer.note else lines)


def _apportion(sizes: Sequence[int], width: int) -> list[int]:
    """Divide `width` cells among `sizes`: one for each, the rest by largest remainder."""
    rest, total = width - len(sizes), sum(sizes)
    exact = [size * rest / total for size in sizes]
    counts = [int(quota) for quota in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda index: counts[index] - exact[index])
    for index in by_remainder[: rest - sum(counts)]:
        counts[index] += 1
    return [count + 1 for count in counts]


def _pack(entries: Sequence[str], columns: int) -> list[str]:
    """Return lines with as many of the entries as fit in each."""
    lines: list[str] = []
    for entry in entries:
        if lines and len(lines[-1]) + len(_INDENT) + len(entry) <= columns:
            lines[-1] += _INDENT + entry
        else:
            lines.append(_INDENT + entry)
    return lines
