"""The commands of `gptoss conversations`: their arguments, their help, and the import of what does the work."""

from pathlib import Path
from typing import Annotated

import typer

from gptoss_cli.cli.environment import Environment
from gptoss_cli.cli.framework import Commands, show_help
from gptoss_cli.cli.options import ConversationExportOptions, JsonOption, YesOption
from gptoss_cli.errors import UsageError
from gptoss_cli.paths import typed_path

CONVERSATIONS = Commands()
_UNIT_SECONDS = {"h": 3600, "d": 86_400, "w": 604_800, "y": 31_557_600}
_NameArgument = Annotated[
    str, typer.Argument(metavar="ID|TITLE", help="Conversation, by its id or its title.", show_default=False)
]
_LimitOption = Annotated[int, typer.Option("-n", metavar="N", min=1, help="Show at most N.")]


def _age_seconds(text: str) -> float:
    """Return the seconds of an age such as 90d. Raises UsageError."""
    number, unit = text[:-1], text[-1:].lower()
    if not (number.isascii() and number.isdecimal() and len(number) <= 6 and unit in _UNIT_SECONDS):
        raise UsageError(f"{text[:20]!r} is not an age: write a whole number with h, d, w or y, such as 90d")
    return float(int(number) * _UNIT_SECONDS[unit])


def conversations(*, invocation: typer.Context) -> None:
    """List, search, export and remove saved conversations."""
    if invocation.invoked_subcommand is None:
        show_help(invocation)


@CONVERSATIONS.command("list")
def list_conversations(
    *,
    limit: _LimitOption = 20,
    every: Annotated[bool, typer.Option("--all", help="List all conversations.")] = False,
    as_json: JsonOption = False,
    environment: Environment,
) -> None:
    """List conversations, the one updated last first."""
    from gptoss_cli.cli.conversations import run_list

    run_list(environment.console, limit=None if every else limit, as_json=as_json)


@CONVERSATIONS.command("show")
def show(
    name: _NameArgument,
    *,
    reasoning: Annotated[bool, typer.Option("--reasoning", help="Show the reasoning too.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print what the model would read next, with its Harmony markup.")
    ] = False,
    branch: Annotated[
        int, typer.Option("--branch", metavar="N", min=1, help="Show the Nth branch; 1 is the current one.")
    ] = 1,
    as_json: JsonOption = False,
    environment: Environment,
) -> None:
    """Show a conversation."""
    from gptoss_cli.cli.conversations import ShowOptions, run_show

    options = ShowOptions(reasoning=reasoning, raw=raw, branch=branch, as_json=as_json)
    run_show(name, options, environment.console)


@CONVERSATIONS.command("search")
def search(
    words: Annotated[list[str], typer.Argument(metavar="WORDS", help="Words, all of which must occur.")],
    *,
    limit: _LimitOption = 20,
    latest: Annotated[bool, typer.Option("--latest", help="Newest first, instead of the best match first.")] = False,
    reasoning: Annotated[bool, typer.Option("--reasoning", help="Search the reasoning and tool output too.")] = False,
    as_json: JsonOption = False,
    environment: Environment,
) -> None:
    """Search the messages of all conversations.

    The last word may be the beginning of one. The words found are marked.
    """
    from gptoss_cli.cli.conversations import SearchOptions, run_search

    options = SearchOptions(limit=limit, latest=latest, reasoning=reasoning, as_json=as_json)
    run_search(" ".join(words), options, environment.console)


@CONVERSATIONS.command("export")
def export(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID|TITLE", help="Conversations, by their ids or titles.", show_default=False),
    ] = None,
    *,
    options: ConversationExportOptions,
    environment: Environment,
) -> None:
    """Write conversations to stdout or a file.

    json keeps everything and can be imported; jsonl is training data; chatgpt is ChatGPT's own format.
    """
    from gptoss_cli.cli.conversations import run_export

    run_export(names or [], options, environment.console)


@CONVERSATIONS.command("import")
def import_file(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", parser=typed_path, help="JSON export of gptoss, or ChatGPT's.")
    ],
    *,
    environment: Environment,
) -> None:
    """Add the conversations of a file.

    FILE is a json export of gptoss, or the conversations.json of an export from ChatGPT.
    """
    from gptoss_cli.cli.conversations import run_import

    run_import(file, environment.console)


@CONVERSATIONS.command("rename")
def rename(
    name: _NameArgument,
    title: Annotated[str, typer.Argument(metavar="TITLE", help="New title.", show_default=False)],
    *,
    environment: Environment,
) -> None:
    """Give a conversation another title."""
    from gptoss_cli.cli.conversations import run_rename

    run_rename(name, title, environment.console)


@CONVERSATIONS.command("rm")
def remove(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID|TITLE", help="Conversations, by their ids or titles.", show_default=False),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Remove all conversations.")] = False,
    yes: YesOption = False,
    environment: Environment,
) -> None:
    """Remove conversations for good.

    Shows what and how much, and asks first. No byte of their text is left in the database.
    """
    from gptoss_cli.cli.conversations import run_remove

    run_remove(names or [], environment.console, every=every, yes=yes)


@CONVERSATIONS.command("prune")
def prune(
    *,
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", metavar="AGE", parser=_age_seconds, help="Not updated for 90d, 12h, 8w or 1y."),
    ] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", metavar="N", min=0, help="Keep the N that were updated last.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List them, and remove nothing.")] = False,
    yes: YesOption = False,
    environment: Environment,
) -> None:
    """Remove old conversations for good.

    With --older-than and --keep, removes those that are older and not among the last N. Lists them and asks first.
    """
    from gptoss_cli.cli.conversations import PruneOptions, run_prune

    options = PruneOptions(older_than_seconds=older_than, keep=keep, dry_run=dry_run, yes=yes)
    run_prune(options, environment.console)


@CONVERSATIONS.command("backup")
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", parser=typed_path, help="New file.")],
    *,
    environment: Environment,
) -> None:
    """Write a copy of the database to a new file."""
    from gptoss_cli.cli.conversations import run_backup

    run_backup(file, environment.console)


@CONVERSATIONS.command("path")
def path(*, environment: Environment) -> None:
    """Print the path of the database."""
    from gptoss_cli.cli.resuming import archive_path

    environment.console.out(f"{archive_path()}\n")


@CONVERSATIONS.command("check")
def check(*, environment: Environment) -> None:
    """Check the database."""
    from gptoss_cli.cli.conversations import run_check

    run_check(environment.console)
