"""What `download`, `verify`, `list` and `remove` have in common: stopping, asking, and JSON."""

import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from gptoss_cli.errors import ExitStatus, UsageError
from gptoss_cli.terminal.console import Console

_JSON_VERSION = 1


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set within the block: an exception could strike between a file and its record.

    What heeds it raises KeyboardInterrupt; after SIGTERM that becomes the exit status of a terminated program.
    """
    stop, received = threading.Event(), set()

    def handle(number: int, frame: FrameType | None) -> None:
        received.add(number)
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, handle) for number in numbers]
    try:
        yield stop
    except KeyboardInterrupt:
        if signal.SIGTERM in received:
            raise SystemExit(ExitStatus.TERMINATED) from None
        raise
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def confirm(question: str, console: Console, *, yes: bool, needs_yes: bool) -> bool:
    """Ask on the terminal, unless `yes`. Without a terminal: go on, or UsageError if that `needs_yes`."""
    if yes:
        return True
    if not console.reads_terminal or console.stdin is None:
        if needs_yes:
            raise UsageError(f"{question} There is no terminal to ask on. If so, add -y.")
        return True
    console.err(f"{question} [y/N] " if needs_yes else f"{question} [Y/n] ")
    answer = console.stdin.readline().strip().lower()
    return answer in ("y", "yes") or (answer == "" and not needs_yes)


def write_json(values: Mapping[str, object], console: Console) -> None:
    """One object on stdout."""
    console.out(json.dumps({"version": _JSON_VERSION, **values}, ensure_ascii=False, indent=2) + "\n")
