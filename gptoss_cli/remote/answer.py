"""One answer of a server, piece by piece, and the wait for it."""

import logging
from collections.abc import Callable
from typing import Final

from gptoss_cli.errors import Hint, NetworkError
from gptoss_cli.remote.connection import BrokenError, Complete, Connection, Exchange, Json, Waiting
from gptoss_cli.remote.dialects import Continuation, Dialect, Piece, Reader

_LOGGER = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.05
BUSY_NOTICE: Final = "The server is busy. It is asked again, for up to a minute."

Say = Callable[[str], None]


class InterruptionError(Exception):
    """The user does not wait any longer."""


class Link:
    """A server, how it is asked, and the wait for its answers, which the user may end."""

    def __init__(self, connection: Connection, dialect: Dialect, notice: Say) -> None:
        self.connection = connection
        self.dialect = dialect
        self.notice = notice
        self.interrupted = False
        self.forgets = False  # what it has read, before it can go on from there
        self.requests = 0

    @property
    def url(self) -> str:
        """The address of the server."""
        return self.connection.request.url

    def send(self, request: Continuation, *, stream: bool) -> Exchange:
        """Send a request."""
        self.requests += 1
        _LOGGER.debug("request %d: %d ids, %d more", self.requests, len(request.ids), request.max_tokens)
        body = self.dialect.body(request, stream=stream)
        return Exchange(self.connection, self.dialect.path, body, stream=stream)

    def check_interrupted(self) -> None:
        """Raise InterruptionError if the user does not wait."""
        if self.interrupted:
            raise InterruptionError


class Answer:
    """The answer to one request, piece by piece."""

    def __init__(self, link: Link, request: Continuation, *, stream: bool = True) -> None:
        self.request = request
        self.ended = False
        self._has_waited = False
        self._link = link
        self._reader: Reader = link.dialect.reader()
        self._exchange = link.send(request, stream=stream)

    def take(self, seconds: float) -> Piece | None:
        """Return the next piece, None if nothing came. Raises NetworkError; BrokenError if the stream broke."""
        self._link.check_interrupted()
        event = self._exchange.take(seconds)
        match event:
            case None:
                return None
            case Waiting():
                if not self._has_waited:
                    self._link.notice(BUSY_NOTICE)
                self._has_waited = True
                return None
            case Complete():  # without a piece that says why
                raise BrokenError(f"{self._link.url} broke the answer off", Hint.RETRY)
            case _:
                return self._read(event)

    def _read(self, data: Json) -> Piece:
        try:
            piece = self._reader.read(data)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as exc:
            url = self._link.url
            raise NetworkError(f"{url} answers with unexpected JSON", Hint.CHECK_SERVER) from exc
        self.ended = piece.finish is not None
        return piece

    def all_ids(self) -> list[int]:
        """Wait for the end and return every id. Raises as `take`."""
        ids: list[int] = []
        while not self.ended:
            piece = self.take(POLL_SECONDS)
            ids += piece.ids if piece is not None else ()
        return ids

    def close(self) -> None:
        """End the request. May be called twice."""
        self._exchange.close()
