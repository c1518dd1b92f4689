"""Something that is loaded in a thread while the user reads or types."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from gptoss_cli.chat.request import Notify
from gptoss_cli.cli.hints import with_hints
from gptoss_cli.errors import Hint

_Loaded = TypeVar("_Loaded")


class Loading(Generic[_Loaded]):
    """Something that is loaded in a thread by calling `load`; `on_done` is called there when it ends.

    `notices` are those of the load so far. `error` is the exception that ended it.
    """

    def __init__(self, load: Callable[[Notify], _Loaded], on_done: Callable[[], None] | None = None) -> None:
        self.notices: list[str] = []
        self.error: BaseException | None = None
        self._load = load
        self._on_done = on_done
        self._loaded: _Loaded | None = None
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread unless it has started."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="loading", daemon=True)
            self._thread.start()

    @property
    def is_done(self) -> bool:
        """True after the load, failed or not."""
        return self._done.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for at most `seconds`; return True if the load is done."""
        return self._done.wait(seconds)

    def result(self) -> _Loaded:
        """Return what was loaded, or raise the error. Only after the load."""
        assert self.is_done
        if self.error is not None:
            raise self.error
        assert self._loaded is not None
        return self._loaded

    def _run(self) -> None:
        try:
            self._loaded = self._load(self._notice)
        except BaseException as exc:  # noqa: BLE001  raised again in the thread that asks for the result
            self.error = exc
        self._done.set()
        if self._on_done is not None:
            self._on_done()

    def _notice(self, text: str, *hints: Hint, subject: str = "") -> None:
        # Kept, because the terminal belongs to the prompt during the load.
        self.notices.append(with_hints(text, *hints, subject=subject, in_chat=True))
