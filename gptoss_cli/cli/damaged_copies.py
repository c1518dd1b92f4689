"""Notices about models in the Hugging Face cache that are damaged, and are passed over in every search."""

from gptoss_cli.checkpoint import store
from gptoss_cli.cli.hints import sentence
from gptoss_cli.terminal.console import Console


def notice_damaged_copies(console: Console) -> None:
    """Show what is wrong, a line for each damaged copy."""
    for problem in store.damaged_copies():
        console.notice(sentence(problem))
