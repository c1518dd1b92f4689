"""A program that saves a chat with a scripted model until it is killed.

It prints all that a user would have seen, as JSON lines: {"question": ...} after the question was saved, {"shown": ...}
before a piece of the answer is saved, {"finished": ...} after a turn was. A piece comes every 0.1 s of a clock that
does not wait.
"""

import itertools
import json
import os
import sys
from pathlib import Path

from gptoss_cli.archive.archive import Archive
from gptoss_cli.archive.saving import ArchiveRecorder
from gptoss_cli.harmony.events import AnswerDelta, MessageEnd, ReasoningDelta
from tests.archive.conversations import ORIGIN, answer, complain, reasoning, snapshot, turn_end, user

PIECE_SECONDS = 0.1
_PIECES = 60


def _print(**values: str) -> None:
    # One write, so that a kill leaves no half a line before the last.
    os.write(1, (json.dumps(values) + "\n").encode())


def main(path: Path) -> None:
    archive = Archive(path, notice=complain)
    last = archive.last()
    resumed = archive.load(last.id) if last else None
    shown = 0
    recorder = ArchiveRecorder(archive, ORIGIN, notice=complain, resumed=resumed, clock=lambda: shown * PIECE_SECONDS)
    messages = [each.message for each in resumed.path] if resumed else []
    for number in itertools.count(len(messages)):
        messages.append(user(f"question {number}"))
        recorder.record(snapshot(*messages))
        _print(question=messages[-1].text)
        thought = reasoning(f"thought {number}")
        recorder.listen(ReasoningDelta(thought.text))
        recorder.listen(MessageEnd(thought))
        pieces = [f"{number}.{i} " for i in range(_PIECES)]
        for piece in pieces:
            _print(shown=piece)
            shown += 1
            recorder.listen(AnswerDelta(piece))
        messages += [thought, answer("".join(pieces))]
        recorder.finish(snapshot(*messages), turn_end())
        _print(finished=messages[-1].text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
