"""Loads a model while something else goes on."""

import io
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from gptoss_cli.cli.definition import TurnOptions
from gptoss_cli.terminal.console import Console

if TYPE_CHECKING:
    from gptoss_cli.chat.session import ChatSession


class Loading:
    """A session that is opened in a thread; `tell` is called there once it is.

    `notices` is what was to be said meanwhile. `error` is raised when the session is asked for.
    """

    def __init__(self, options: TurnOptions, tell: Callable[["Loading"], None]) -> None:
        self.notices: list[str] = []
        self.error: BaseException | None = None
        self._session: ChatSession | None = None
        self._done = threading.Event()
        self._options = options
        self._tell = tell
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless it has begun."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._load, name="loading", daemon=True)
            self._thread.start()

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    def wait(self, seconds: float) -> bool:
        """Whether it is done, after waiting for so long at most."""
        return self._done.wait(seconds)

    def session(self) -> "ChatSession":
        """What was opened. Raises what opening it raised."""
        assert self.is_done
        if self.error is not None:
            raise self.error
        assert self._session is not None
        return self._session

    def _load(self) -> None:
        from gptoss_cli.chat import opening

        # The terminal belongs to the prompt meanwhile.
        said = io.StringIO()
        try:
            self._session = opening.open_session(self._options, Console(sys.stdin, None, said, {}))
        except BaseException as exc:  # noqa: BLE001  raised again in the thread that asks
            self.error = exc
        finally:
            self.notices = said.getvalue().splitlines()
            self._done.set()
        self._tell(self)
