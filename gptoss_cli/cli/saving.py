"""The saving of a conversation while it goes on: its recorder, and what the archive has to say."""

import os
from contextlib import suppress

from gptoss_cli.archive.archive import Archive, Stored
from gptoss_cli.archive.recorder import NoRecorder, Recorder
from gptoss_cli.archive.rows import storable
from gptoss_cli.archive.saving import ArchiveRecorder, Origin
from gptoss_cli.chat.request import ModelInfo
from gptoss_cli.cli.resuming import archive_path, model_name
from gptoss_cli.errors import GptossError
from gptoss_cli.terminal.console import Console


class Saving:
    """Saves the conversations of one command.

    The archive is opened when something is first saved or read. What it reports during a turn is kept until `report`:
    the screen belongs to the turn meanwhile.
    """

    def __init__(self, info: ModelInfo, *, enabled: bool, keep_reasoning: bool) -> None:
        self._notices: list[str] = []
        self.archive = Archive(archive_path(), notice=self._notices.append)
        self._info = info
        self._enabled = enabled
        self._keep_reasoning = keep_reasoning
        self._recorder: ArchiveRecorder | None = None
        self._folder = _working_folder()

    @property
    def conversation(self) -> str | None:
        """The id of the current conversation if anything of it was saved."""
        return self._recorder.conversation if self._recorder else None

    @property
    def pending_fork(self) -> Stored | None:
        """The conversation that the current one is a copy of, while nothing of the copy was saved."""
        return self._recorder.pending_fork if self._recorder else None

    @property
    def model(self) -> str:
        """The name of the model that answers."""
        return model_name(self._info.model)

    def begin(self, resumed: Stored | None = None, *, title: str | None = None) -> Recorder:
        """Return the recorder of another conversation, which is `resumed` or a new one."""
        self._recorder = None
        # A conversation keeps the folder that it was begun in.
        self._folder = _working_folder() if resumed is None else resumed.row.folder
        if not self._enabled:
            return NoRecorder()
        self._recorder = ArchiveRecorder(
            self.archive,
            self._origin(title),
            notice=self._notices.append,
            resumed=resumed,
            keep_reasoning=self._keep_reasoning,
        )
        return self._recorder

    def enable(self) -> bool:
        """Save from now on; return False if that was so already."""
        was_enabled, self._enabled = self._enabled, True
        return not was_enabled

    def change_model(self, info: ModelInfo) -> None:
        """Save the next turns as answers of another model."""
        self._info = info
        if self._recorder is not None:
            self._recorder.origin = self._origin(self._recorder.origin.title)

    def report(self, console: Console) -> None:
        """Show what the archive reported since the last call."""
        notices, self._notices[:] = list(self._notices), []
        for notice in notices:
            console.notice(notice)

    def close(self, console: Console, *, command: str | None) -> None:
        """Close the archive. With `command` say how to continue the conversation, if anything of it was saved."""
        if command is not None and self.conversation is not None:
            with suppress(GptossError):
                console.notice(f"{command} --resume {self.archive.short_id(self.conversation)} continues this.")
        self.report(console)
        self.archive.close()

    def _origin(self, title: str | None) -> Origin:
        return Origin(
            model=self.model, identity=self._info.server or self._info.revision or "", title=title, folder=self._folder
        )


def _working_folder() -> str | None:
    try:
        return storable(os.getcwd())
    except OSError:
        return None  # it was deleted
