"""The slash commands of a chat about the conversations on disk. A wrong argument changes nothing."""

import datetime
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from gptoss_cli.archive.archive import Stored, kv_names_of
from gptoss_cli.archive.export import export
from gptoss_cli.archive.rows import ConversationRow, MessageRow, Status
from gptoss_cli.archive.search import search
from gptoss_cli.archive.titles import title_line
from gptoss_cli.chat.request import ChatRequest
from gptoss_cli.cli.conversation_picker import choose_conversation
from gptoss_cli.cli.conversation_views import hit_text, listing
from gptoss_cli.cli.loaded_chat import LoadedChat
from gptoss_cli.cli.prompt_input import printable_path
from gptoss_cli.cli.resuming import Resumed, call_notice, other_model
from gptoss_cli.errors import GptossError, UsageError
from gptoss_cli.harmony.conversation import Conversation
from gptoss_cli.harmony.events import Role
from gptoss_cli.paths import typed_path
from gptoss_cli.settings import ExportFormat
from gptoss_cli.units import counted

_SHOWN: Final = 10


def _save(chat: LoadedChat, argument: str) -> None:
    if argument and not title_line(argument):
        raise UsageError("A title needs a visible character")
    saving, session = chat.saving, chat.session
    fork = saving.pending_fork
    if fork is not None:
        session.recorder = saving.begin(fork, title=argument or None)
    elif saving.enable() or (argument and saving.conversation is None):
        session.recorder = saving.begin(title=argument or None)
        session.recorder.record(session.snapshot())
    elif argument and saving.conversation is not None:
        saving.archive.rename(saving.conversation, argument)
    if saving.conversation is None and fork is None and session.conversation.messages:
        session.recorder.record(session.snapshot())  # again: it has failed before
        if saving.conversation is None:
            raise GptossError("This chat cannot be saved now. To write it to a file: /export FILE")
    if saving.conversation is None:
        title = f" as “{title_line(argument)}”" if argument else ""
        which = "first" if fork is None else "next"
        chat.console.notice(f"This chat is saved{title} from its {which} message on.")
        return
    row = saving.archive.load(saving.conversation).row
    short = saving.archive.short_id(row.id)
    chat.console.notice(f"Saved as “{row.title or short}”. To continue it later: gptoss chat --resume {short}")


def _conversations(chat: LoadedChat, argument: str) -> None:
    archive, console = chat.saving.archive, chat.console
    if argument:
        hits = search(archive, argument, limit=_SHOWN)
        now, columns = time.time(), console.stderr.columns
        names = [archive.short_id(hit.conversation) for hit in hits]
        shown = "\n".join(hit_text(hit, name, now, columns=columns) for hit, name in zip(hits, names, strict=True))
        console.err(shown or f"No message has: {title_line(argument)}\n")
        return
    summaries = archive.summaries(_SHOWN)
    if summaries:
        console.err(listing(summaries, archive, time.time(), columns=console.stderr.columns))
        count = len(archive.ids())
        if count > len(summaries):
            console.notice(f"These are the last {_SHOWN} of {count:,}. To search them: /conversations WORDS")
    else:
        console.notice("There are no saved conversations yet.")


def _resume(chat: LoadedChat, argument: str) -> None:
    archive, console = chat.saving.archive, chat.console
    if not argument and not (console.reads_terminal and console.draws):
        raise UsageError("Name a conversation: /resume ID. To list them: /conversations")
    name = archive.find(argument).id if argument else choose_conversation(archive, console)
    if name is None:
        return
    stored = archive.load(name)
    resumed = Resumed(stored, ("model",))
    session, state = chat.session, chat.state
    request = resumed.request(ChatRequest(settings=session.settings))
    assert request.date is not None
    session.conversation = Conversation(request.instructions, request.date, request.effort)
    session.restore(stored.current, resumed.written_effort(request.effort), kv_names_of(stored.row.settings))
    session.settings = request.settings
    session.recorder = chat.saving.begin(stored)
    session.forget_last_turn()
    state.last_reasoning, state.attached, state.edited_from = "", [], None
    chat.console.notice(resumed.description())
    for line in (other_model(stored.row, chat.saving.model), call_notice(stored, session.recipients)):
        if line:
            chat.console.notice(line)
    chat.console.notice(f"The conversation has {counted(session.used_tokens, 'token')} so far.")


def _fork(chat: LoadedChat, argument: str) -> None:
    saving = chat.saving
    if not chat.session.conversation.messages:
        raise UsageError("There is no message to copy yet.")
    if saving.pending_fork is not None:
        raise UsageError("This chat is a copy already, which is saved with your next message.")
    if saving.conversation is None:
        raise UsageError("This conversation is not saved. To save it: /save")
    original = saving.archive.load(saving.conversation)
    chat.session.recorder = saving.begin(replace(original, is_fork=True))
    short = saving.archive.short_id(original.row.id)
    chat.console.notice(f"This chat goes on as a copy. The original stays as it is: /resume {short}")


def _export(chat: LoadedChat, argument: str) -> None:
    if not chat.session.conversation.messages:
        raise UsageError("There is no message to export yet.")
    file = typed_path(argument or f"gptoss-{datetime.datetime.now():%Y%m%d-%H%M%S}.md")
    suffix = file.suffix.removeprefix(".")
    form = ExportFormat(suffix) if suffix in list(ExportFormat) else ExportFormat.MARKDOWN
    text = export([_in_memory(chat)], form)
    name = printable_path(file)
    try:
        _write_new(file, text)
    except FileExistsError as exc:
        raise UsageError(f"{name} exists already. Give another name: /export FILE") from exc
    except OSError as exc:
        raise UsageError(f"{name} cannot be written: {exc.strerror}. Give another name: /export FILE") from exc
    chat.console.notice(f"The conversation is in {name}.")


def _write_new(file: Path, text: str) -> None:
    """Write a file that does not exist yet; of one that cannot be written whole nothing stays. Raises OSError."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(handle, "w", encoding="utf-8", errors="replace") as stream:
            stream.write(text)
    except OSError:
        with suppress(OSError):
            file.unlink()
        raise


def _in_memory(chat: LoadedChat) -> Stored:
    """Return the conversation as it stands, so that it can be exported even where it cannot be saved."""
    snapshot, now = chat.session.snapshot(), time.time()
    messages = []
    for number, message in enumerate(snapshot.messages, start=1):
        status = Status.COMPLETE if message.complete else Status.INTERRUPTED
        messages.append(MessageRow(number, number - 1 or None, message, status, None, now))
    first = next((each.text for each in snapshot.messages if each.role is Role.USER), "")
    row = ConversationRow(
        id=chat.saving.conversation or "",
        title=title_line(first) or None,
        model=chat.saving.model,
        identity="",
        instructions=snapshot.instructions,
        date=snapshot.date.isoformat(),
        settings=snapshot.settings,
        created=now,
        updated=now,
        tip=len(messages),
    )
    return Stored(row, tuple(messages), ())


CONVERSATION_COMMANDS: Final[dict[str, Callable[[LoadedChat, str], None]]] = {
    "/save": _save,
    "/conversations": _conversations,
    "/resume": _resume,
    "/export": _export,
    "/fork": _fork,
}
