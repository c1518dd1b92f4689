"""The input line of a chat, and its history."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import Completer
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition, vi_insert_mode
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.output import ColorDepth, Output, create_output
from prompt_toolkit.styles import Style

from gptoss_cli.files import replace_file

_BLOCK = '"""'
_LARGEST_HISTORY_BYTES = 4 << 20
_KEPT_HISTORY_BYTES = 1 << 20
_STYLE = Style.from_dict({"prompt": "ansigreen bold", "bottom-toolbar": "noreverse ansibrightblack"})


class ChatPrompt:
    """An input field of several lines on the terminal.

    Enter sends. Alt-Enter, Ctrl-J and Enter after a backslash insert a newline, and so does Enter within three double
    quotes. Ctrl-C clears the input; Ctrl-D leaves if it is empty. Pasted text keeps its newlines and is not sent.

    `toolbar` returns the text of the line below. `shortcuts` are called for their keys, and the input stays open.
    `on_shown` is called each time the prompt has been drawn. `was_cleared`: Ctrl-C was pressed in the last `read`.
    """

    def __init__(
        self,
        history: History,
        *,
        toolbar: Callable[[], str] | None = None,
        shortcuts: dict[str, Callable[[], None]] | None = None,
        completer: Completer | None = None,
        on_shown: Callable[[], None] | None = None,
        vi: bool = False,
        colored: bool = True,
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self.was_cleared = False
        self._session: PromptSession[str] = PromptSession(
            [("class:prompt", "> ")],
            prompt_continuation="  ",
            multiline=True,
            history=history,
            auto_suggest=AutoSuggestFromHistory(),
            completer=completer,
            # Commands are completed while typing; file names in the middle of a sentence are not.
            complete_while_typing=Condition(lambda: self._document.text.startswith("/")),
            reserve_space_for_menu=6,
            enable_suspend=True,
            enable_open_in_editor=True,
            tempfile_suffix=".md",
            vi_mode=vi,
            style=_STYLE,
            color_depth=None if colored else ColorDepth.DEPTH_1_BIT,
            bottom_toolbar=toolbar,
            key_bindings=self._keys(shortcuts or {}),
            input=input,
            # Not stdout, which may be redirected to a file.
            output=output or create_output(always_prefer_tty=True),
        )
        if on_shown is not None:
            self._session.app.after_render += lambda app: on_shown()

    def read(self, draft: str = "") -> str | None:
        """Read a message, with `draft` as the initial input. Never empty; None if the user leaves."""
        self.was_cleared = False
        try:
            return without_block(self._session.prompt(default=draft))
        except EOFError:
            return None

    def type_ahead(self, keys: Sequence[KeyPress]) -> None:
        """Use `keys`, typed before the prompt appeared, as the first input of the next `read`."""
        store_typeahead(self._session.app.input, list(keys))

    def above(self, show: Callable[[], None]) -> None:
        """Call `show`, which writes to the terminal, above the prompt, if it is being read. For any thread."""
        app = self._session.app
        if app.is_running and app.loop is not None:
            app.loop.call_soon_threadsafe(lambda: run_in_terminal(show), context=app.context)

    def interrupt(self, reason: BaseException) -> None:
        """Make `read`, if it is active, raise `reason`. For any thread."""
        app = self._session.app
        if app.is_running and app.loop is not None:
            app.loop.call_soon_threadsafe(lambda: app.exit(exception=reason), context=app.context)

    def _keys(self, shortcuts: dict[str, Callable[[], None]]) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def send(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if buffer.text.count(_BLOCK) % 2:
                buffer.insert_text("\n")
            elif buffer.document.is_cursor_at_the_end and buffer.text.endswith("\\"):
                buffer.delete_before_cursor()
                buffer.insert_text("\n")
            elif buffer.text.strip():
                buffer.validate_and_handle()

        @keys.add("escape", "enter", filter=~vi_insert_mode)
        @keys.add("c-j")
        def newline(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add("c-c")
        @keys.add("<sigint>")
        def clear(event: KeyPressEvent) -> None:
            self.was_cleared = True
            event.current_buffer.reset()

        def bind(key: str, act: Callable[[], None]) -> None:
            @keys.add(key)
            def shortcut(event: KeyPressEvent) -> None:
                act()
                event.app.invalidate()

        for key, act in shortcuts.items():
            bind(key, act)
        return keys

    @property
    def _document(self) -> Document:
        return self._session.default_buffer.document


def open_history(file: Path) -> tuple[History, str | None]:
    """Open the input history in `file`, readable by its owner only. A large one is cut to its newest entries.

    If it cannot be opened: a history in memory, and the problem in one line.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # prompt_toolkit would create it readable by everyone.
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NONBLOCK", 0), 0o600))
        if not file.is_file():
            raise OSError(0, "it is not a regular file")
        file.chmod(0o600)
        if file.stat().st_size > _LARGEST_HISTORY_BYTES:
            _shorten(file)
    except OSError as exc:
        return InMemoryHistory(), f"The input history will not be saved: {file}: {exc.strerror}"
    return FileHistory(file), None


def temporary_history() -> tuple[History, None]:
    """Return an input history that is not saved, and no problem."""
    return InMemoryHistory(), None


def without_block(text: str) -> str:
    """Return the text within three double quotes, or `text` if it is not in quotes."""
    inner = text.strip()
    if len(inner) >= 2 * len(_BLOCK) and inner.startswith(_BLOCK) and inner.endswith(_BLOCK):
        return inner[len(_BLOCK) : -len(_BLOCK)].strip("\n") or text
    return text


def _shorten(file: Path) -> None:
    """Keep the newest entries. An entry begins with an empty line."""
    with file.open("rb") as stream:
        stream.seek(-_KEPT_HISTORY_BYTES, os.SEEK_END)
        kept = stream.read()
    replace_file(file, kept[max(0, kept.find(b"\n\n")) :])
