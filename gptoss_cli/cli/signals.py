"""Ctrl-C and SIGTERM as requests to stop. An exception of them could come in the middle of a cache update.

A request that is not followed within some seconds is repeated as an exception: no signal is ever ignored for good.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

from gptoss_cli.errors import ExitStatus

# A Ctrl-C so long after an earlier one that had no effect ends the program. Quick ones are those of an impatient user.
PATIENCE_SECONDS: Final = 2.0
# A SIGTERM that had no effect for so long is repeated.
_GRACE_SECONDS: Final = 5.0


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Within the block, call `stop` for each Ctrl-C and SIGTERM instead of raising.

    `stop` may only set a flag. After a SIGTERM the end of the block raises SystemExit, which ends the program. So does
    another Ctrl-C, or a SIGTERM by itself, if the block goes on for seconds. A Ctrl-C that StrayInterrupts has received
    since the user's last entry is about this block.
    """
    received: dict[int, float] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if received and now - min(received.values()) >= PATIENCE_SECONDS:
            _end({number, *received})
        received.setdefault(number, now)
        if number == signal.SIGTERM:
            repeated.start()
        stop()

    repeated = _RepeatedSignal(signal.SIGTERM)
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, handle) for number in numbers]
    if isinstance(previous[0], StrayInterrupts) and previous[0].has_received:
        handle(signal.SIGINT, None)
    try:
        yield
    except KeyboardInterrupt:
        if signal.SIGTERM in received:
            raise SystemExit(ExitStatus.TERMINATED) from None
        raise
    finally:
        repeated.cancel()
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
    if signal.SIGTERM in received:
        raise SystemExit(ExitStatus.TERMINATED)


class StrayInterrupts:
    """The handler of a Ctrl-C that comes when nothing is to be stopped, such as just after the end of an answer.

    The first ones only stop what `stopping` begins before `forget`. One that comes seconds later ends the program:
    something hangs.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        signal.signal(signal.SIGINT, self)

    @property
    def has_received(self) -> bool:
        """True if there was one since `forget`."""
        return self._first is not None

    def forget(self) -> None:
        """Forget earlier ones: the program answers again."""
        self._first = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
        elif now - self._first >= PATIENCE_SECONDS:
            _end({signal.SIGINT})


class _RepeatedSignal:
    """Sends a signal to the main thread again after some seconds, unless it is cancelled."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number
        self._timer: threading.Timer | None = None

    def start(self) -> None:
        """Start the time, once."""
        if self._timer is None:
            self._timer = threading.Timer(_GRACE_SECONDS, self._send)
            self._timer.daemon = True
            self._timer.start()

    def cancel(self) -> None:
        """Send nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _send(self) -> None:
        if hasattr(signal, "pthread_kill"):  # not on Windows; it ends a system call that waits
            signal.pthread_kill(threading.main_thread().ident or 0, self._number)
        else:
            signal.raise_signal(self._number)


def _end(numbers: set[int]) -> NoReturn:
    raise SystemExit(ExitStatus.TERMINATED if signal.SIGTERM in numbers else ExitStatus.INTERRUPTED)
