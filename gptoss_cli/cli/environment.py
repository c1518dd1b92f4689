"""The environment of one command: its streams and a way to open a model, which tests replace."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gptoss_cli.cli.hints import with_hints
from gptoss_cli.errors import Hint
from gptoss_cli.terminal.console import Console

# For annotations alone: help and most commands open no model.
if TYPE_CHECKING:
    from gptoss_cli.chat.request import ChatRequest, OpenedModel, OpenModel


@dataclass(frozen=True, slots=True)
class Environment:
    """The parts of the process that a command uses."""

    console: Console
    open_model: OpenModel
    began: float = field(default_factory=time.monotonic)  # when the program was started

    def open(self, request: ChatRequest) -> OpenedModel:
        """Open a model and show the progress meanwhile. Raises what `open_model` raises."""
        late: list[str] = []
        begun = False

        def notice(text: str, *hints: Hint, subject: str = "") -> None:
            # The line that shows the progress must not be written into.
            line = with_hints(text, *hints, subject=subject)
            if begun:
                late.append(line)
            else:
                self.console.interrupting_notice(line)

        def progress(text: str) -> None:
            nonlocal begun
            begun = True
            activity.say(text)

        try:
            with self.console.activity() as activity:
                return self.open_model(request, progress=progress, notice=notice)
        finally:
            begun = False  # a later notice is shown at once
            for line in late:
                self.console.notice(line)
