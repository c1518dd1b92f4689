"""The input line of a chat, and its history."""

import os
import sys
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import Completer
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition, is_searching, vi_insert_mode, vi_navigation_mode
from prompt_toolkit.formatted_text import AnyFormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.layout.processors import TabsProcessor
from prompt_toolkit.output import ColorDepth, Output, create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.renderer import CPR_Support, Renderer
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import is_dumb_terminal

from gptoss_cli.files import replace_file
from gptoss_cli.terminal.editor import edited
from gptoss_cli.terminal.typeahead import keys_are_waiting

_BLOCK = '"""'
_LARGEST_HISTORY_BYTES = 4 << 20
_KEPT_HISTORY_BYTES = 1 << 20
_STYLE = Style.from_dict({"prompt": "ansigreen bold", "bottom-toolbar": "noreverse ansibrightblack"})


@dataclass(frozen=True, slots=True)
class Entered:
    """A message as it was entered. `pasted`: it begins with pasted text, so it is no command and no block."""

    text: str
    pasted: bool = False


class ChatPrompt:
    """An input field of several lines on the terminal.

    Enter sends. Alt-Enter, Ctrl-J and Enter after a typed backslash insert a newline. A typed message that begins with
    three double quotes is a block: Enter inserts a newline until three more end it. Ctrl-C clears the input; Ctrl-D
    leaves if it is empty. Pasted text keeps every character and is not sent. Ctrl-X Ctrl-E opens an editor, and what
    is saved there comes back as the input.

    `toolbar` returns the text of the line below for a width in columns. `shortcuts` are called for their keys, and the
    input stays open. `on_shown` is called each time the prompt has been drawn. `on_error` shows why the editor failed,
    above the prompt. `was_cleared`: Ctrl-C was pressed in the last `read`.
    """

    def __init__(
        self,
        history: History,
        *,
        toolbar: Callable[[int], str] | None = None,
        shortcuts: dict[str, Callable[[], None]] | None = None,
        completer: Completer | None = None,
        on_shown: Callable[[], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
        vi: bool = False,
        colored: bool = True,
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self.was_cleared = False
        self._pasted = ""  # the beginning of the input if that was pasted
        self._just_pasted: str | None = None  # the input as it was after the last paste
        self._toolbar = toolbar
        self._on_error = on_error or (lambda exc: None)
        self._on_shown = on_shown or (lambda: None)
        # prompt_toolkit draws nothing on such a terminal, if it may choose the output.
        self._is_dumb = output is None and is_dumb_terminal()
        if not self._is_dumb:
            output = output or _terminal_output()
        self._session: PromptSession[str] = PromptSession(
            [("class:prompt", "> ")],
            prompt_continuation=self._continuation,
            multiline=True,
            history=history,
            auto_suggest=AutoSuggestFromHistory(),
            completer=completer,
            # Commands are completed while typing; file names in the middle of a sentence are not.
            complete_while_typing=Condition(lambda: self._document.text.startswith("/") and not self._is_pasted),
            reserve_space_for_menu=6,
            enable_suspend=True,
            vi_mode=vi,
            style=_STYLE,
            color_depth=None if colored else ColorDepth.DEPTH_1_BIT,
            bottom_toolbar=self._status,
            input_processors=[TabsProcessor(char1=" ", char2=" ")],
            key_bindings=self._keys(shortcuts or {}),
            input=input,
            output=output,
        )
        self._session.default_buffer.on_text_changed += lambda buffer: self._forget_paste(buffer.text)
        renderer = self._session.app.renderer
        renderer.cpr_not_supported_callback = self._session.app.invalidate  # by itself it would print a warning
        if isinstance(output, _TerminalOutput):
            output.renderer = renderer
        self._session.app.after_render += lambda app: self._on_shown()

    def read(self, draft: str = "") -> Entered | None:
        """Read a message, with `draft` as the initial input. Never empty; None if the user leaves.

        A draft is text that was sent before: like pasted text, it is no command.
        """
        self.was_cleared = False
        self._pasted, self._just_pasted = draft, None
        try:
            text = self._prompted(draft)
        except EOFError:
            return None
        pasted = self._begins_as_pasted(text)
        return Entered(text if pasted else without_block(text), pasted)

    def _prompted(self, draft: str) -> str:
        """Return what prompt_toolkit reads. Raises EOFError if the user leaves."""
        if not self._is_dumb:
            return self._session.prompt(default=draft)
        self._on_shown()
        while True:
            try:
                return self._session.prompt(default=draft)
            except KeyboardInterrupt:  # there prompt_toolkit's own meaning of Ctrl-C comes before ours
                self.was_cleared, draft = True, ""
                self._forget_paste("")

    def type_ahead(self, keys: Sequence[KeyPress]) -> None:
        """Use `keys`, typed before the prompt appeared, as the first input of the next `read`."""
        store_typeahead(self._session.app.input, list(keys))

    def set_aside(self, draft: str) -> bool:
        """If typed keys wait for `read`, which would add them to `draft`, keep that in the history and return True."""
        source = self._session.app.input
        keys = get_typeahead(source)
        store_typeahead(source, keys)
        if not keys and not keys_are_waiting():
            return False
        self._remember(as_typed(draft))
        return True

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

        @keys.add("enter", filter=~is_searching)
        def send(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if self._in_block:
                buffer.insert_text("\n")
            elif (
                buffer.document.is_cursor_at_the_end and buffer.text.endswith("\\") and buffer.text != self._just_pasted
            ):
                buffer.delete_before_cursor()
                buffer.insert_text("\n")
            elif buffer.text.strip():
                self._send(event)

        @keys.add("<bracketed-paste>")
        def paste(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            text = event.data.replace("\r\n", "\n").replace("\r", "\n")
            is_message = buffer is self._session.default_buffer  # and not what is searched for
            if is_message and not buffer.document.text_before_cursor.strip():
                self._pasted = text
            buffer.insert_text(text)
            if is_message:
                self._just_pasted = buffer.text

        @keys.add("escape", "enter", filter=~vi_insert_mode)
        # A dumb terminal ends a line with it, as the shell of Emacs does.
        @keys.add("c-j", filter=Condition(lambda: not self._is_dumb))
        def newline(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add("c-c", filter=~is_searching)  # there it ends the search
        @keys.add("<sigint>")
        def clear(event: KeyPressEvent) -> None:
            self.was_cleared = True
            event.current_buffer.reset()
            self._forget_paste("")

        @keys.add("c-x", "c-e", filter=~is_searching)
        @keys.add("v", filter=vi_navigation_mode)
        def edit(event: KeyPressEvent) -> None:
            self._edit(event.app.loop)

        def bind(key: str, act: Callable[[], None]) -> None:
            @keys.add(key)
            def shortcut(event: KeyPressEvent) -> None:
                act()
                event.app.invalidate()

        for key, act in shortcuts.items():
            bind(key, act)
        return keys

    def _send(self, event: KeyPressEvent) -> None:
        """End the input, and keep in the history what would have to be typed for the same message."""
        buffer = event.current_buffer
        self._remember(as_typed(buffer.text) if self._is_pasted else buffer.text)
        event.app.exit(result=buffer.text)

    def _remember(self, entry: str) -> None:
        history = self._session.default_buffer.history
        if entry not in history.get_strings()[-1:]:
            history.append_string(entry)

    def _edit(self, loop: AbstractEventLoop | None) -> None:
        """Replace the input by what the user makes of it in an editor. Several lines are a message, as if pasted."""
        assert loop is not None, "the prompt is being read"
        buffer = self._session.default_buffer
        before = buffer.text

        def edit() -> None:
            try:
                text = edited(before, os.environ)
            except Exception as exc:  # noqa: BLE001  it would end the prompt
                self._on_error(exc)
            else:
                loop.call_soon_threadsafe(use, text)

        def use(text: str) -> None:
            buffer.document = Document(text, len(text))
            if "\n" in text.strip():
                self._pasted = self._just_pasted = text

        run_in_terminal(edit, in_executor=True)

    def _forget_paste(self, text: str) -> None:
        if not text.strip():
            self._pasted, self._just_pasted = "", None

    def _begins_as_pasted(self, text: str) -> bool:
        # Two characters tell: later ones may be edited, and another entry of the history may be shown.
        pasted = self._pasted.lstrip()[:2]
        return bool(pasted) and text.lstrip().startswith(pasted)

    def _continuation(self, width: int, line_number: int, wrap_count: int) -> AnyFormattedText:
        return [("class:prompt", ". ")] if self._in_block and not wrap_count else "  "

    def _status(self) -> AnyFormattedText:
        columns = self._session.app.output.get_size().columns
        if self._in_block:
            words = 'A block is open. To send it, end it with """ and press Enter. Ctrl-C clears it.'
            return words if len(words) <= columns else 'Block: """ Enter sends, Ctrl-C clears'
        return self._toolbar(columns) if self._toolbar is not None else ""

    @property
    def _in_block(self) -> bool:
        return not self._is_pasted and is_open_block(self._document.text)

    @property
    def _is_pasted(self) -> bool:
        return self._begins_as_pasted(self._document.text)

    @property
    def _document(self) -> Document:
        return self._session.default_buffer.document


class _TerminalOutput(Vt100_Output):
    """A terminal that may send no reports of the cursor's position, without which the toolbar would not be drawn."""

    renderer: Renderer | None = None

    def get_rows_below_cursor_position(self) -> int:
        """Return 1, which is always there, if the terminal does not answer. Raises NotImplementedError if it may."""
        if self.renderer is not None and self.renderer.cpr_support is CPR_Support.NOT_SUPPORTED:
            return 1
        raise NotImplementedError


def _terminal_output() -> Output:
    """Return the terminal, which stdout is not if it is redirected to a file."""
    stream = next((each for each in (sys.stdout, sys.stderr) if each is not None and each.isatty()), None)
    if stream is None or sys.platform == "win32":
        return create_output(always_prefer_tty=True)
    return _TerminalOutput.from_pty(stream, term=os.environ.get("TERM"), default_color_depth=ColorDepth.from_env())


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


def is_open_block(text: str) -> bool:
    """Return True if `text` begins with three double quotes and the block is not closed yet.

    Its first line opens no block if it has three more: that is a message about quotes, or a block in one line.
    """
    inner = text.strip()
    first, *others = inner.removeprefix(_BLOCK).split("\n")
    if not inner.startswith(_BLOCK) or _BLOCK in first:
        return False
    # A line with two pairs is one of the text, such as a docstring.
    return not (others and others[-1].endswith(_BLOCK) and others[-1].count(_BLOCK) % 2)


def without_block(text: str) -> str:
    """Return the text within three double quotes, or `text` if it does not begin and end with them."""
    inner = text.strip()
    if len(inner) >= 2 * len(_BLOCK) and inner.startswith(_BLOCK) and inner.endswith(_BLOCK):
        return inner[len(_BLOCK) : -len(_BLOCK)].strip("\n") or text
    return text


def as_typed(text: str) -> str:
    """Return what a user types to send exactly `text`, which may begin like a command or a block."""
    start = text.lstrip()
    if start.startswith(_BLOCK):
        return f"{_BLOCK}\n{text}\n{_BLOCK}"
    is_one_line = "\n" not in text.strip()
    return f"/{start}" if start.startswith("/") and is_one_line else text


def _shorten(file: Path) -> None:
    """Keep the newest entries. An entry begins with an empty line."""
    with file.open("rb") as stream:
        stream.seek(-_KEPT_HISTORY_BYTES, os.SEEK_END)
        kept = stream.read()
    replace_file(file, kept[max(0, kept.find(b"\n\n")) :])
