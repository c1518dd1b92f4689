"""Reads the keyboard while the model works: some keys act at once, the others wait for the next prompt."""

import codecs
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys

_PASTE_ON, _PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"


class TypeAhead:
    """What is typed while somebody else has the terminal.

    `actions` are for keys such as "c-o" (Ctrl-O), and are called in a thread of their own.
    """

    def __init__(self, actions: Mapping[str, Callable[[], None]]) -> None:
        self.keys: list[KeyPress] = []
        self.actions = dict(actions)
        self._parser = Vt100Parser(self._take)
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within the block keys are read and nothing is echoed; Ctrl-C still interrupts.

        Windows, which has no termios, goes without.
        """
        try:
            import termios
        except ImportError:
            yield
            return
        if not sys.stdin.isatty():
            yield
            return
        modes = termios.tcgetattr(sys.stdin)
        changed = modes.copy()
        changed[0] &= ~termios.ICRNL  # Enter must reach the prompt as Enter
        # IEXTEN would take Ctrl-O and Ctrl-V for itself; without NOFLSH, Ctrl-C would lose what was typed.
        changed[3] = changed[3] & ~(termios.ECHO | termios.ICANON | termios.IEXTEN) | termios.NOFLSH

        def take_terminal(number: int = 0, frame: FrameType | None = None) -> None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, changed)

        take_terminal()
        # After Ctrl-Z the shell has had the terminal, with modes of its own.
        before = signal.signal(signal.SIGCONT, take_terminal)
        try:
            with self._thread():
                yield
        finally:
            signal.signal(signal.SIGCONT, before)
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, modes)

    @contextmanager
    def _thread(self) -> Iterator[None]:
        wake, waker = os.pipe()
        thread = threading.Thread(target=self._read, args=(wake,), name="keys", daemon=True)
        thread.start()
        # A pasted text must come as one, or each of its lines would be sent on its own.
        _tell_terminal(_PASTE_ON)
        try:
            yield
        finally:
            _tell_terminal(_PASTE_OFF)
            os.close(waker)
            thread.join()
            os.close(wake)
            self._parser.flush()

    def _read(self, wake: int) -> None:
        keyboard = sys.stdin.fileno()
        while True:
            ready, _, _ = select.select([keyboard, wake], [], [])
            if keyboard in ready:
                data = os.read(keyboard, 4096)
                self._parser.feed(self._decoder.decode(data))
                if not data:
                    return
            elif wake in ready:
                return

    def _take(self, key: KeyPress) -> None:
        action = self.actions.get(str(key.key.value if isinstance(key.key, Keys) else key.key))
        if action is not None:
            action()
        elif key.key is not Keys.CPRResponse:
            self.keys.append(key)


def _tell_terminal(code: str) -> None:
    if sys.stdout.isatty():
        sys.stdout.write(code)
        sys.stdout.flush()
