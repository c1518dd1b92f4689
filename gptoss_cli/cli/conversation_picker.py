"""The choice of a conversation to continue, on the whole screen. Imports no Markdown: it opens at once."""

import time
from collections.abc import Sequence
from typing import Final, overload

import typer

from gptoss_cli.archive.archive import Archive
from gptoss_cli.archive.titles import clean, title_line
from gptoss_cli.cli.resuming import author_of
from gptoss_cli.errors import ExitStatus, UsageError
from gptoss_cli.terminal.console import Console
from gptoss_cli.terminal.picker import Choice, Picker
from gptoss_cli.units import age_words

_MODEL_CELLS: Final = 24
_PREVIEWED: Final = 6
_PREVIEWED_CHARACTERS: Final = 2000


def pick_conversation(archive: Archive, console: Console) -> str:
    """Return the id of the conversation that the user chooses. Raises typer.Exit if the user leaves."""
    chosen = choose_conversation(archive, console)
    if chosen is None:
        raise typer.Exit(ExitStatus.INTERRUPTED)
    return chosen


def choose_conversation(archive: Archive, console: Console) -> str | None:
    """Return the id of the conversation that the user chooses, None if the user leaves.

    Raises UsageError if there is none.
    """
    found = Choices(archive.titles(), time.time())
    if not found:
        raise UsageError("There is no conversation to continue yet")
    return Picker(found, lambda each: _preview(archive, each), colored=console.colors).run()


class Choices(Sequence[Choice]):
    """The entries of the picker for rows of `Archive.titles`. There may be thousands: each is made when it is shown."""

    def __init__(self, rows: Sequence[tuple[str, str, str, float]], now: float) -> None:
        self._rows = rows
        self._now = now
        self._models: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Choice: ...

    @overload
    def __getitem__(self, index: slice) -> list[Choice]: ...

    def __getitem__(self, index: int | slice) -> Choice | list[Choice]:
        if isinstance(index, slice):
            return [self._choice(row) for row in self._rows[index]]
        return self._choice(self._rows[index])

    def _choice(self, row: tuple[str, str, str, float]) -> Choice:
        name, title, model, updated = row
        if model not in self._models:
            self._models[model] = title_line(model, _MODEL_CELLS)
        return Choice(name, clean(title) or name, f"{self._models[model]}, {age_words(self._now - updated)}")


def _preview(archive: Archive, conversation: str) -> str:
    """Return the last messages of a conversation, the newest first, for a person to recognise it."""
    shown = [each for each in archive.load(conversation).current if not each.is_reasoning][-_PREVIEWED:]
    parts = []
    for message in reversed(shown):
        lines = [clean(line) for line in message.text[:_PREVIEWED_CHARACTERS].splitlines()]
        parts.append("\n".join([f"{author_of(message)}:", *lines]))
    return "\n\n".join(parts)
