"""Ctrl-C and SIGTERM as requests to stop. An exception of them could come in the middle of a cache update."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from gptoss_cli.errors import ExitStatus


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Within the block, call `stop` for each Ctrl-C and SIGTERM instead of raising.

    `stop` may only set a flag. After a SIGTERM the end of the block raises SystemExit, which ends the program.
    """
    received = set[int]()

    def handle(number: int, frame: FrameType | None) -> None:
        received.add(number)
        stop()

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    except KeyboardInterrupt:
        if signal.SIGTERM in received:
            raise SystemExit(ExitStatus.TERMINATED) from None
        raise
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
    if signal.SIGTERM in received:
        raise SystemExit(ExitStatus.TERMINATED)
