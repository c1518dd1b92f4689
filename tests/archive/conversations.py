"""Building blocks of the archive's tests: messages, snapshots, ends of turns, archives that must not complain."""

import datetime
import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from gptoss_cli.archive.archive import Archive, Stored, fork_rows
from gptoss_cli.archive.recorder import Snapshot
from gptoss_cli.archive.rows import ConversationRow
from gptoss_cli.archive.saving import ArchiveRecorder, Origin
from gptoss_cli.harmony.events import Channel, Cut, EndReason, Message, ReasoningCut, Role, TurnEnd

ORIGIN = Origin(model="gpt-oss-20b", identity="sha256:1")


def user(text: str) -> Message:
    return Message(Role.USER, text)


def reasoning(text: str) -> Message:
    return Message(Role.ASSISTANT, text, Channel.ANALYSIS)


def answer(text: str, *, complete: bool = True) -> Message:
    return Message(Role.ASSISTANT, text, Channel.FINAL, complete=complete)


def snapshot(*messages: Message, settings: Mapping[str, object] | None = None) -> Snapshot:
    return Snapshot(
        messages=messages,
        instructions="Be brief.",
        date=datetime.date(2026, 1, 2),
        settings={"effort": "low", "temperature": 0.5} if settings is None else settings,
    )


def turn_end(reason: EndReason = EndReason.COMPLETE) -> TurnEnd:
    return TurnEnd(
        reason=reason,
        answered=True,
        cuts=(ReasoningCut(Cut.BUDGET, 7),),
        prompt_tokens=101,
        prefilled_tokens=53,
        reasoning_tokens=7,
        answer_tokens=11,
        seed=4_000_000_000,
        first_token_seconds=0.25,
        total_seconds=1.5,
    )


def complain(text: str) -> None:
    raise AssertionError(f"an unexpected notice: {text}")


@contextmanager
def databases_in_memory() -> Iterator[Iterator[Path]]:
    """Yield files for a hundred sequences each: every one is a conversation of its own, and a check reads a whole file.

    In memory where there is such a folder: tens of thousands of transactions would each wait for the disk.
    """
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield (Path(folder) / f"{number // 100}.db" for number in itertools.count())


def open_archive(folder: Path) -> Archive:
    return Archive(folder / "data" / "conversations.db", notice=complain)


def save(archive: Archive, *texts: str, origin: Origin = ORIGIN) -> str:
    """Save a conversation of the user's messages and answers in turn; return its id."""
    recorder = ArchiveRecorder(archive, origin, notice=complain)
    messages: list[Message] = []
    for i in range(0, len(texts), 2):
        messages.append(user(texts[i]))
        recorder.record(snapshot(*messages))
        messages += [answer(text) for text in texts[i + 1 : i + 2]]
        if i + 1 < len(texts):
            recorder.finish(snapshot(*messages), turn_end())
    assert recorder.conversation is not None
    return recorder.conversation


def fork_of(archive: Archive, stored: Stored, tip: int | None) -> ConversationRow:
    """Save a copy of the path to `tip`; return its row."""
    with archive.database.transaction() as connection:
        return fork_rows(connection, stored, tip, moment=time.time())


def texts(messages: Sequence[Message]) -> list[str]:
    return [each.text for each in messages]
