"""A yes or no from the user."""

from gptoss_cli.errors import UsageError
from gptoss_cli.terminal.console import Console


def confirm(question: str, console: Console, *, yes: bool, needs_yes: bool) -> bool:
    """Ask on the terminal, unless `yes`; return True to go on. An empty answer goes on unless it `needs_yes`.

    Without a terminal return True, or raise UsageError if the question `needs_yes`.
    """
    if yes:
        return True
    if not console.reads_terminal or console.stdin is None:
        if needs_yes:
            raise UsageError(f"{question} There is no terminal to ask on. To answer yes, add -y")
        return True
    console.err(f"{console.wrapped(question + (' [y/N]' if needs_yes else ' [Y/n]'))} ")
    try:
        answer = console.stdin.readline().strip().lower()
    except KeyboardInterrupt:
        console.err("\n")  # what follows begins a line of its own
        raise
    return answer in ("y", "yes") or (answer == "" and not needs_yes)
