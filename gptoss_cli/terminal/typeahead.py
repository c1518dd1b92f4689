"""Reading the keyboard while the model answers: shortcuts act at once, other keys wait for the next prompt."""

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
    """The keys that are typed while no prompt is shown.

    `actions` are called for keys such as "c-o" (Ctrl-O), in the thread that reads the keyboard.
    """

    def __init__(self, actions: Mapping[str, Callable[[], None]]) -> None:
        self.keys: list[KeyPress] = []
        self.actions = dict(actions)
        self._parser = Vt100Parser(self._take)
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read keys without echo during the block. Ctrl-C still interrupts.

        Does nothing on Windows, or if stdin is no terminal.
        """
        with keys_kept() as are_kept:
            if not are_kept:
                yield
                return
            with self._thread():
                yield

    @contextmanager
    def _thread(self) -> Iterator[None]:
        wake, waker = os.pipe()
        thread = threading.Thread(target=self._read, args=(wake,), name="keys", daemon=True)
        thread.start()
        try:
            yield
        finally:
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


@contextmanager
def keys_kept() -> Iterator[bool]:
    """Keep the keys of the block as they are typed, without echo, for whoever reads next. Ctrl-C still interrupts.

    Gives False, and does nothing, on Windows, or if stdin is no terminal.
    """
    try:
        import termios  # here, because Windows has none
    except ImportError:
        yield False
        return
    if not sys.stdin.isatty():
        yield False
        return
    modes = termios.tcgetattr(sys.stdin)
    changed = modes.copy()
    changed[0] &= ~termios.ICRNL  # the prompt expects a carriage return for Enter
    # IEXTEN would consume Ctrl-O and Ctrl-V; without NOFLSH, Ctrl-C would discard the typed keys.
    changed[3] = changed[3] & ~(termios.ECHO | termios.ICANON | termios.IEXTEN) | termios.NOFLSH

    def set_modes(number: int = 0, frame: FrameType | None = None) -> None:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, changed)

    set_modes()
    # After Ctrl-Z and fg, the modes are those of the shell.
    before = signal.signal(signal.SIGCONT, set_modes)
    # With bracketed paste a pasted text arrives as one key; otherwise each of its lines would be sent.
    _write_to_terminal(_PASTE_ON)
    try:
        yield True
    finally:
        _write_to_terminal(_PASTE_OFF)
        signal.signal(signal.SIGCONT, before)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, modes)


def keys_are_waiting() -> bool:
    """Return True if something was typed that nobody has read yet."""
    with keys_kept() as are_kept:
        return are_kept and bool(select.select([sys.stdin], [], [], 0)[0])


def _write_to_terminal(code: str) -> None:
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        sys.stdout.write(code)
        sys.stdout.flush()
