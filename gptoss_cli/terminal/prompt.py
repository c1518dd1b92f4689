"""Asks for the user's next message. Needs a terminal; knows nothing of models."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output, create_output


class ChatPrompt:
    """The line a message is typed on.

    Enter sends; Alt-Enter and Ctrl-J make a newline; Ctrl-C clears the line; Ctrl-D on an empty one leaves. Pasted text
    keeps its newlines and does not send itself.
    """

    def __init__(self, history: History, *, input: Input | None = None, output: Output | None = None) -> None:
        self._session: PromptSession[str] = PromptSession(
            "> ",
            prompt_continuation="  ",
            multiline=True,
            history=history,
            auto_suggest=AutoSuggestFromHistory(),
            enable_suspend=True,
            key_bindings=_keys(),
            input=input,
            # The prompt must not land in a file that stdout is sent to.
            output=output or create_output(always_prefer_tty=True),
        )

    def read(self) -> str | None:
        """The next message, or None when the user leaves. Never empty."""
        try:
            return self._session.prompt()
        except EOFError:
            return None


def open_history(file: Path) -> tuple[History, str | None]:
    """The history kept in `file`, readable by its owner only.

    Where it cannot be kept: a history that is forgotten at the end, and the reason in one line.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # prompt_toolkit would create it readable by everyone.
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
        file.chmod(0o600)
    except OSError as exc:
        return InMemoryHistory(), f"The input history is not kept: {file}: {exc.strerror}."
    return FileHistory(file), None


@contextmanager
def typing_ahead() -> Iterator[None]:
    """Within the block what is typed is not echoed, and waits for the next prompt as it was typed.

    Ctrl-C still interrupts. stdin must be a terminal; Windows, which has no termios, goes without.
    """
    try:
        import termios
    except ImportError:
        yield
        return
    modes = termios.tcgetattr(sys.stdin)
    changed = modes.copy()
    changed[0] &= ~termios.ICRNL  # Enter must reach the prompt as Enter
    changed[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, changed)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, modes)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        if event.current_buffer.text.strip():
            event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    @keys.add("<sigint>")
    def clear(event: KeyPressEvent) -> None:
        event.current_buffer.reset()

    return keys
