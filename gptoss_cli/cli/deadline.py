"""The time limit of a command, from its start to its last token, wherever it stands.

watcher   |  waits ............ | alarm |  grace  | give up, exit
main      |  reads stdin, loads the model         |            -> KeyboardInterrupt, DeadlineError
          |  runs a turn                          |            -> `stop`: it ends in order at the next token
          |  computes and looks at nothing        |            -> the process ends
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

from gptoss_cli.cli.incomplete import timeout_words
from gptoss_cli.errors import DeadlineError, ExitStatus
from gptoss_cli.harmony.events import Event

# The time in which a command ends in order. With what is left of the second, the process has ended within one.
_GRACE_SECONDS: Final = 0.7
# An alarm that comes just before a system call does not interrupt it, so alarms are repeated until one is handled.
_ALARMS: Final = 10


class Deadline:
    """The end of the time of a command, `seconds` after `began` by time.monotonic; None for no limit.

    If nothing else ends the command, `give_up` is called in another thread, to write what there is, and the process
    ends.
    """

    def __init__(self, seconds: float | None, *, began: float, give_up: Callable[[], None]) -> None:
        self.seconds = seconds
        self._give_up = give_up
        self.at = None if seconds is None else began + seconds
        self._stop: Callable[[], None] | None = None
        self._over = threading.Event()
        self._is_handled = False

    @property
    def has_passed(self) -> bool:
        """True if the time is over."""
        return self.at is not None and time.monotonic() >= self.at

    @contextmanager
    def watched(self) -> Iterator[None]:
        """End the block when the time is over, with DeadlineError unless a turn runs that `ending` can stop."""
        if self.at is None:
            yield
            return
        previous = signal.signal(_ALARM, self._handle)
        watcher = threading.Thread(target=self._watch, args=(self.at, threading.get_ident()), daemon=True)
        try:
            watcher.start()
            yield
        except KeyboardInterrupt:
            if not self.has_passed:
                raise
            raise DeadlineError(f"No answer: {timeout_words(self.seconds)}.") from None
        finally:
            self.end()
            watcher.join()
            signal.signal(_ALARM, previous)

    def ending(self, turn: Iterable[Event], stop: Callable[[], None]) -> Iterator[Event]:
        """Yield the events of `turn`. Once the first is here, `stop` is called when the time is over: it sets a flag.

        Before it there is nothing to end in order: the prompt is being encoded.
        """
        try:
            for event in turn:
                self._stop = stop
                yield event
        finally:
            self._stop = None

    def end(self) -> None:
        """Let the rest of the command take any time."""
        self._over.set()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._is_handled = True
        if self._over.is_set():
            return
        if self._stop is None:
            raise KeyboardInterrupt
        self._stop()

    def _watch(self, at: float, main: int) -> None:
        if self._over.wait(at - time.monotonic()):
            return
        for _ in range(_ALARMS):
            if not self._is_handled:
                _raise_alarm(main)
            if self._over.wait(_GRACE_SECONDS / _ALARMS):
                return
        self._exit()

    def _exit(self) -> NoReturn:
        try:
            self._give_up()
        finally:
            os._exit(ExitStatus.CUT_SHORT)


def _raise_alarm(main: int) -> None:
    """Run the handler in the main thread. A system call that it waits in is interrupted, except on Windows."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, _ALARM)
    else:
        _thread.interrupt_main(_ALARM)


_ALARM: Final = signal.SIGALRM if hasattr(signal, "SIGALRM") else signal.SIGINT
