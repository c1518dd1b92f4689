"""`gptoss conversations`: list, show, search, export, import, rename, remove, prune, back up and check them."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import typer

from gptoss_cli.archive.archive import Archive, Removal, Stored, Summary, kv_names_of
from gptoss_cli.archive.export import export
from gptoss_cli.archive.importing import import_conversations
from gptoss_cli.archive.rows import ConversationRow
from gptoss_cli.archive.search import search
from gptoss_cli.cache_files import forget
from gptoss_cli.chat.request import ChatRequest
from gptoss_cli.cli.confirmation import confirm
from gptoss_cli.cli.conversation_views import hit_text, listing, transcript, transcript_lines
from gptoss_cli.cli.json_output import write_json
from gptoss_cli.cli.options import ConversationExportOptions
from gptoss_cli.cli.output import check_output, write_answer
from gptoss_cli.cli.prompt_input import printable_path
from gptoss_cli.cli.resuming import Resumed, archive_path, count_messages, title_of
from gptoss_cli.errors import ExitStatus, Hint, IntegrityError, ResourceError, UsageError
from gptoss_cli.files import read_regular
from gptoss_cli.settings import ExportFormat
from gptoss_cli.terminal.architecture_table import show_lines
from gptoss_cli.terminal.console import Console

_SHOWN_TITLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowOptions:
    """The options of `conversations show`."""

    reasoning: bool = False
    raw: bool = False
    branch: int = 1
    as_json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """The options of `conversations search`."""

    limit: int = 20
    latest: bool = False
    reasoning: bool = False
    as_json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions:
    """The options of `conversations prune`. None: neither age nor number decides."""

    older_than_seconds: float | None = None
    keep: int | None = None
    dry_run: bool = False
    yes: bool = False


def open_archive(console: Console) -> "closing[Archive]":
    """Return the archive, which is closed when the block ends."""
    return closing(Archive(archive_path(), notice=console.notice))


def run_list(console: Console, *, limit: int | None, as_json: bool) -> None:
    """Run `gptoss conversations list`. `limit` None lists all."""
    with open_archive(console) as archive:
        summaries = archive.summaries(limit)
        if as_json:
            names = ("id", "title", "model", "created", "updated", "forked_from", "folder")
            found = [{name: getattr(s.row, name) for name in names} | {"messages": s.messages} for s in summaries]
            write_json({"conversations": found}, console, indent=2)
        elif not summaries:
            console.notice("There are no conversations yet. gptoss chat saves them.")
        else:
            console.out(listing(summaries, archive, time.time(), columns=_columns(console)))
            count = len(archive.ids())
            if count > len(summaries):
                console.notice(f"These are the last {len(summaries):,} of {count:,}. To list all: --all")


def run_show(name: str, options: ShowOptions, console: Console) -> None:
    """Run `gptoss conversations show`."""
    with open_archive(console) as archive:
        stored = archive.load(archive.find(name).id)
    count = len(stored.tips)
    if options.branch > max(1, count):
        branches = "1 branch" if count < 2 else f"{count} branches"
        raise UsageError(f"“{title_of(stored.row)}” has {branches}, not {options.branch}")
    if options.as_json:
        console.out(export([stored], ExportFormat.JSON))
        return
    if options.branch > 1:
        stored = Stored(replace(stored.row, tip=stored.tips[options.branch - 1]), stored.messages, stored.turns)
    if options.raw:
        console.out(_raw(stored))
    elif (columns := _columns(console)) is not None:
        show_lines(transcript_lines(stored, reasoning=options.reasoning, branches=count, columns=columns), console)
    else:
        console.out(transcript(stored, reasoning=options.reasoning, branches=count))


def run_search(words: str, options: SearchOptions, console: Console) -> None:
    """Run `gptoss conversations search`. Raises typer.Exit if nothing is found."""
    with open_archive(console) as archive:
        hits = search(archive, words, limit=options.limit, latest=options.latest, reasoning=options.reasoning)
        if options.as_json:
            write_json({"hits": [asdict(hit) for hit in hits]}, console, indent=2)
        else:
            now, columns = time.time(), _columns(console)
            names = [archive.short_id(hit.conversation) for hit in hits]
            texts = (hit_text(hit, name, now, columns=columns) for hit, name in zip(hits, names, strict=True))
            console.out("\n".join(texts))
    if not hits:
        console.notice(f"No message has: {words}")
        raise typer.Exit(ExitStatus.FAILED)


def run_export(names: Sequence[str], options: ConversationExportOptions, console: Console) -> None:
    """Run `gptoss conversations export`."""
    output = options.output
    is_file = output is not None and str(output) != "-"
    if output is not None and is_file:
        check_output(output)
        if os.path.exists(output) and not options.force:
            raise UsageError(f"{printable_path(output)} exists already. Name another file, or add --force")
    with open_archive(console) as archive:
        found = _chosen(archive, names, every=options.every)
    form = options.form or _form_of(output)
    write_answer(export(found, form, reasoning=options.reasoning), output, console)
    if output is not None and is_file:
        console.notice(f"{_counted(len(found), 'conversation')} written to {printable_path(output)}.")


def run_import(file: Path, console: Console) -> None:
    """Run `gptoss conversations import`."""
    try:
        data = read_regular(file)
    except OSError as exc:
        raise UsageError(f"{printable_path(file)} cannot be read: {exc.strerror or exc}") from exc
    with open_archive(console) as archive:
        done = import_conversations(archive, data, source=printable_path(file), now=time.time())
    conversations = _counted(len(done.conversations), "conversation")
    console.notice(f"Imported {conversations} with {_counted(done.messages, 'message')}.")
    for reason, count in done.skipped.items():
        console.notice(f"Skipped: {_counted_phrase(count, reason)}.")


def run_rename(name: str, title: str, console: Console) -> None:
    """Run `gptoss conversations rename`."""
    with open_archive(console) as archive:
        line = archive.rename(archive.find(name).id, title)
    console.notice(f"Renamed to “{line}”.")


def run_remove(names: Sequence[str], console: Console, *, every: bool, yes: bool) -> None:
    """Run `gptoss conversations rm`. Raises typer.Exit if the user does not confirm."""
    with open_archive(console) as archive:
        found = _chosen(archive, names, every=every)
        if not found:
            console.notice("There are no conversations.")
            return
        titles = ", ".join(f"“{title_of(each.row)}”" for each in found[:_SHOWN_TITLES])
        more = f" and {len(found) - _SHOWN_TITLES} more" if len(found) > _SHOWN_TITLES else ""
        amount = _amount(len(found), sum(map(count_messages, found)))
        if not confirm(f"Remove {amount}: {titles}{more}?", console, yes=yes, needs_yes=True):
            raise typer.Exit(ExitStatus.INTERRUPTED)
        _remove(archive, [each.row for each in found], console)


def run_prune(options: PruneOptions, console: Console) -> None:
    """Run `gptoss conversations prune`. Raises typer.Exit if the user does not confirm."""
    if options.older_than_seconds is None and options.keep is None:
        raise UsageError("Give the age of what to remove, --older-than 90d, or how many to keep, --keep N")
    with open_archive(console) as archive:
        now = time.time()
        found = _prunable(archive, options, now)
        if not found:
            console.notice("There are no conversations to remove.")
            return
        amount = _amount(len(found), sum(each.messages for each in found))
        table = listing(found, archive, now, columns=_columns(console))
        if options.dry_run:
            console.out(table)
            console.notice(f"{amount} would be removed.")
            return
        console.lines(table.rstrip("\n"))
        if not confirm(f"Remove {amount}?", console, yes=options.yes, needs_yes=True):
            raise typer.Exit(ExitStatus.INTERRUPTED)
        # One that was continued while the question was open is not old any more.
        still = {each.row.id: each.row.updated for each in _prunable(archive, options, now)}
        _remove(archive, [each.row for each in found if still.get(each.row.id) == each.row.updated], console)


def _prunable(archive: Archive, options: PruneOptions, now: float) -> list[Summary]:
    """Return the conversations that neither their age nor their place among the last ones keeps."""
    least = options.older_than_seconds
    others = archive.summaries()[options.keep or 0 :]
    return [each for each in others if least is None or now - each.row.updated > least]


def _amount(conversations: int, messages: int) -> str:
    return f"{_counted(conversations, 'conversation')} with {_counted(messages, 'message')}"


def _remove(archive: Archive, rows: Sequence[ConversationRow], console: Console) -> None:
    """Remove conversations with their KV files."""
    kv_names = [name for row in rows for name in kv_names_of(row.settings)]
    removal = archive.remove([row.id for row in rows])
    try:
        forget(kv_names, kept=archive.kv_names())
    except OSError as exc:
        raise ResourceError(f"A KV cache of the conversations cannot be deleted: {exc}") from exc
    console.notice(f"{_counted(removal.conversations, 'conversation')} removed.")
    for line in _left(removal):
        console.lines(line)


def run_backup(file: Path, console: Console) -> None:
    """Run `gptoss conversations backup`."""
    with open_archive(console) as archive:
        archive.backup(file)
    console.notice(f"The conversations were copied to {printable_path(file)}.")


def run_check(console: Console) -> None:
    """Run `gptoss conversations check`. Raises IntegrityError if something is wrong."""
    with open_archive(console) as archive:
        problems = archive.check()
        count = 0 if problems else len(archive.ids())
    for problem in problems:
        console.out(f"{problem}\n")
    if problems:
        raise IntegrityError(f"{archive_path().name} has {_counted(len(problems), 'problem')}")
    console.out(f"{_counted(count, 'conversation')}, no problem found\n")


def _chosen(archive: Archive, names: Sequence[str], *, every: bool) -> list[Stored]:
    if every and names:
        raise UsageError("--all and the name of a conversation do not go together. Leave one of them out.")
    if not every and not names:
        raise UsageError("Name a conversation, or add --all", Hint.LIST_CONVERSATIONS)
    ids = archive.ids() if every else list(dict.fromkeys(archive.find(name).id for name in names))
    return [archive.load(each) for each in ids]


def _form_of(output: Path | None) -> ExportFormat:
    """Return the format that the name of a file says."""
    suffix = "" if output is None else output.suffix.removeprefix(".")
    return ExportFormat(suffix) if suffix in list(ExportFormat) else ExportFormat.MARKDOWN


def _left(removal: Removal) -> Iterator[str]:
    """Yield lines about places that may still have the text."""
    if not removal.erased:
        yield (
            "Another program has the database open, so some of the text may still be in it."
            " End that program and run gptoss conversations rm with another conversation, or check."
        )
    if removal.copies:
        yield "These copies of the database may still have the text; delete them if you do not need them:"
        yield from (f"  {printable_path(each)}" for each in removal.copies)


def _raw(stored: Stored) -> str:
    """Return the prompt of the next turn with its markup."""
    # Here and not at the top: the vocabulary takes longer to load than all other views together.
    from gptoss_cli.harmony.conversation import Conversation
    from gptoss_cli.harmony.vocabulary import load_encoding

    resumed = Resumed(stored)
    request = resumed.request(ChatRequest())
    assert request.date is not None
    conversation = Conversation(request.instructions, request.date, request.effort)
    conversation.written_effort = resumed.written_effort(request.effort) or conversation.written_effort
    for message in stored.current:
        conversation.add(message)
    return load_encoding().decode(conversation.render()) + "\n"


def _columns(console: Console) -> int | None:
    """Return the width to fit, None for a pipe or a file."""
    return console.stdout.columns if console.stdout.is_terminal else None


def _counted_phrase(count: int, phrase: str) -> str:
    """Return a count with a phrase whose first word is a noun in the singular: 2 messages of tools."""
    noun, *others = phrase.split(maxsplit=1)
    return " ".join([_counted(count, noun), *others])


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
