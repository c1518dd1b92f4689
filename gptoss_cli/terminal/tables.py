"""A table of names and values on stdout. Nothing in it can control the terminal."""

import io
from collections.abc import Mapping

from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

from gptoss_cli.terminal.console import Console
from gptoss_cli.terminal.sanitize import neutralize


def show_table(rows: Mapping[str, str], remark: str, console: Console) -> None:
    """Write `rows`, and `remark` below them. Raises what Console.out raises."""
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(Text(name), Text(neutralize(value)))
    drawn = io.StringIO()
    rich = RichConsole(file=drawn, width=console.stdout.columns, no_color=True, force_terminal=False)
    rich.print(table)
    rich.print(Text(remark))
    console.out(drawn.getvalue())
