"""The real program; every turn it finishes is added to a file.

    recording_program.py FILE ARGUMENT...

A record is the pickled conversation before the answer, the seed, and the answer as it was decoded.
"""

import pickle
import sys
from collections.abc import Generator, Iterable
from copy import deepcopy
from pathlib import Path

from gptoss_cli.archive.recorder import Attachment
from gptoss_cli.chat.request import ChatRequest, Notify, OpenedModel, Say
from gptoss_cli.chat.session import ChatSession
from gptoss_cli.cli import main
from gptoss_cli.cli.model_opener import open_model
from gptoss_cli.harmony.events import EndReason, Event

_FILE = Path(sys.argv[1])


def _record_turns(session: ChatSession) -> None:
    """Make `session` add every turn that it completes to the file."""
    answer = session.answer

    def recorded(attachments: Iterable[Attachment] = ()) -> Generator[Event]:
        before = deepcopy(session.conversation)
        yield from answer(attachments)
        if session.last_end is not None and session.last_end.reason is EndReason.COMPLETE:
            with _FILE.open("ab") as file:
                pickle.dump((before, session.last_end.seed, session.last_raw), file)

    session.answer = recorded  # type: ignore[method-assign]


def _open_recorded(request: ChatRequest, *, progress: Say, notice: Notify) -> OpenedModel:
    opened = open_model(request, progress=progress, notice=notice)
    _record_turns(opened.session)
    return opened


if __name__ == "__main__":
    sys.exit(main.run(sys.argv[2:], open_model=_open_recorded))
