"""The real program; every turn it finishes is added to a file.

    recording_program.py FILE ARGUMENT...

A record is the pickled conversation before the answer, the seed, and the answer as it was decoded.
"""

import pickle
import sys
from collections.abc import Generator
from copy import deepcopy
from pathlib import Path

from gptoss_cli.chat import session
from gptoss_cli.cli import main
from gptoss_cli.harmony.events import EndReason, Event

_FILE = Path(sys.argv[1])


class _Recorded(session.ChatSession):
    def answer(self) -> Generator[Event]:
        before = deepcopy(self.conversation)
        yield from super().answer()
        if self.last_end is not None and self.last_end.reason is EndReason.COMPLETE:
            with _FILE.open("ab") as file:
                pickle.dump((before, self.last_end.seed, self.last_raw), file)


if __name__ == "__main__":
    session.ChatSession = _Recorded  # type: ignore[misc]
    sys.exit(main.run(sys.argv[2:]))
