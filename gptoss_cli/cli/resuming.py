"""The conversation that `chat` and `ask` continue: found in the archive, and turned into a request for its model."""

import datetime
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from gptoss_cli import settings
from gptoss_cli.archive.archive import Archive, Stored, kv_names_of
from gptoss_cli.archive.rows import ConversationRow
from gptoss_cli.archive.titles import title_line
from gptoss_cli.chat.request import ChatRequest, OpenedModel
from gptoss_cli.checkpoint import catalog
from gptoss_cli.checkpoint.store import find_converted
from gptoss_cli.errors import Hint, NotInstalledError, UsageError
from gptoss_cli.harmony.events import Message, Role
from gptoss_cli.paths import typed_path
from gptoss_cli.settings import ReasoningEffort
from gptoss_cli.units import age_words, counted

# Smallest and largest value of the settings that a conversation keeps; None may stand for no limit.
_KEPT: Final[dict[str, tuple[type[Any], float, float]]] = {
    "temperature": (float, 0, 10),
    "top_p": (float, 1e-9, 1),
    "top_k": (int, 1, float("inf")),
    "think_budget": (int, 0, float("inf")),
}
_MAY_BE_NONE: Final = ("top_k", "think_budget")


@dataclass(frozen=True, slots=True)
class Resumed:
    """A conversation that goes on. `given` are the names of options that replace what it has of its own."""

    stored: Stored
    given: Collection[str] = ()

    @property
    def model(self) -> str:
        """The model that answered in it last."""
        return self.stored.row.model

    def request(self, request: ChatRequest) -> ChatRequest:
        """Return `request` with the conversation's own model, instructions, date, effort and sampling settings."""
        row = self.stored.row
        own: dict[str, Any] = {"model": row.model, "instructions": row.instructions, "effort": _effort(row.settings)}
        changes = {name: value for name, value in own.items() if name not in self.given}
        sampling = {name: value for name, value in _sampling(row.settings).items() if name not in self.given}
        date = request.date if "date" in self.given else datetime.date.fromisoformat(row.date)
        return replace(request, date=date, settings=replace(request.settings, **sampling), **changes)

    def open(self, open_model: Callable[[ChatRequest], OpenedModel], request: ChatRequest) -> OpenedModel:
        """Open the model of a request and give it the conversation.

        Raises NotInstalledError with both ways on if the conversation's own model is missing.
        """
        try:
            opened = open_model(request)
        except (NotInstalledError, UsageError) as exc:
            if "model" in self.given or request.server is not None or not _is_missing(self.model, exc):
                raise
            known = catalog.find_model(self.model)
            hints = (Hint.DOWNLOAD, Hint.ANOTHER_MODEL) if known else (Hint.ANOTHER_MODEL,)
            message = f"{self.model}, the model of this conversation, is not installed"
            raise NotInstalledError(message, *hints, subject=known.short_name if known else "") from exc
        opened.session.restore(
            self.stored.current, self.written_effort(request.effort), kv_names_of(self.stored.row.settings)
        )
        return opened

    def notices(self, opened: OpenedModel) -> list[str]:
        """Return lines about the conversation that only its model can count, or that depend on the model."""
        session = opened.session
        model, calls = other_model(self.stored.row, opened.info.model), call_notice(self.stored, session.recipients)
        tokens = f"The conversation has {counted(session.used_tokens, 'token')} so far."
        return [each for each in (model, calls, tokens) if each]

    def written_effort(self, effort: ReasoningEffort) -> ReasoningEffort | None:
        """Return the effort that the system message names if it is not `effort`."""
        written = self.stored.row.settings.get("written_effort")
        is_other = effort is ReasoningEffort.NONE and written in list(ReasoningEffort)
        return ReasoningEffort(str(written)) if is_other else None

    def description(self) -> str:
        """Return a line that names the conversation."""
        row, count = self.stored.row, count_messages(self.stored)
        age = age_words(time.time() - row.updated)
        what = "a copy of " if self.stored.is_fork else ""
        return f"Continuing {what}“{title_of(row)}” ({counted(count, 'message')}, {row.model}, {age})."


def archive_path() -> Path:
    """Return the path of the archive."""
    return settings.data_folder() / "conversations.db"


def find_stored(archive: Archive, resume: str | None, *, at: int | None = None, fork: bool = False) -> Stored:
    """Return the conversation to continue: the one with the id or title `resume`, or for None the last one.

    With `at` it ends after that message of the user; then, and with `fork`, it is to go on as a copy.
    Raises UsageError if there is none.
    """
    row = archive.last() if resume is None else archive.find(resume)
    if row is None:
        raise UsageError("There is no conversation to continue yet")
    stored = archive.load(row.id)
    tip = row.tip if at is None else stored.tip_after(at)
    return replace(stored, row=replace(row, tip=tip), is_fork=fork or at is not None)


def check_choice(*, continue_last: bool, resume: str | None, at: int | None = None, fork: bool = False) -> None:
    """Raise UsageError for options that contradict each other."""
    if continue_last and resume is not None:
        raise UsageError("--continue and --resume do not go together. Leave one of them out.")
    if not continue_last and resume is None and (fork or at is not None):
        raise UsageError(f"{'--fork' if fork else '--at'} needs a conversation. Add -c, or --resume ID.")


def title_of(row: ConversationRow) -> str:
    """Return the title of a conversation, or its id."""
    return row.title or row.id


def count_messages(stored: Stored) -> int:
    """Return the messages of the current path that a person reads."""
    return sum(each.role is Role.USER or each.is_answer for each in stored.current)


def author_of(message: Message) -> str:
    """Return the name of the one who wrote a message, as a person calls it."""
    match message.role:
        case Role.USER:
            return "You"
        case Role.TOOL:
            return f"Tool {title_line(message.name or '')}".rstrip()
        case _:
            return "Reasoning" if message.is_reasoning else "gpt-oss"


def other_model(row: ConversationRow, model: str) -> str:
    """Return a notice if another model answers than the one of the conversation, else an empty text."""
    if model_name(model) == model_name(row.model):
        return ""
    return f"The conversation was with {row.model}; {model} answers from now on."


def call_notice(stored: Stored, recipients: Collection[str]) -> str:
    """Return a notice about a call that was not run, or about tools that are not among `recipients`, else ""."""
    called = [each.recipient for each in stored.current if each.is_call and each.recipient]
    missing = ", ".join(title_line(each) for each in dict.fromkeys(called) if each not in recipients)
    parts = [f"It called {missing}, which cannot be called now."] if missing else []
    if stored.current and stored.current[-1].is_call:
        parts.append("The last call was interrupted and not run; the model is told so with your next message.")
    return " ".join(parts)


def model_name(model: str) -> str:
    """Return the full name of a model that may be given by its short one, or by a path from the working folder."""
    known = catalog.find_model(model)
    if known is not None:
        return known.name
    folder = typed_path(model) if model else None
    is_folder = folder is not None and find_converted(model) is None and os.path.isdir(folder)
    return os.path.abspath(folder) if folder is not None and is_folder else model


def _is_missing(model: str, exc: Exception) -> bool:
    return isinstance(exc, NotInstalledError) or (catalog.find_model(model) is None and not os.path.isdir(model))


def _effort(kept: Mapping[str, object]) -> ReasoningEffort:
    effort = kept.get("effort")
    return ReasoningEffort(str(effort)) if effort in list(ReasoningEffort) else ReasoningEffort.MEDIUM


def _sampling(kept: Mapping[str, object]) -> dict[str, Any]:
    """Return the sampling settings that are valid; an imported conversation may hold anything."""
    valid: dict[str, Any] = {}
    for name, (kind, least, most) in _KEPT.items():
        value = kept.get(name)
        is_number = isinstance(value, int | kind) and not isinstance(value, bool)
        if is_number and least <= value <= most:  # type: ignore[operator]
            valid[name] = kind(value)
        elif value is None and name in kept and name in _MAY_BE_NONE:
            valid[name] = None
    return valid
