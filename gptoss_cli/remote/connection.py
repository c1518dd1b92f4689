"""HTTP to one server: questions with a JSON answer, and answers that arrive piece by piece in a thread."""

import json
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2

from gptoss_cli.errors import GptossError, Hint, NetworkError, ResourceError, UsageError, first_line
from gptoss_cli.remote.request import ServerRequest

_CONTACT_SECONDS: Final = 5.0
# Between two bytes of an answer. A server that reads a long prompt may send nothing meanwhile.
_SILENCE_SECONDS: Final = 900.0
# In all, for a server that is busy or still loads its model.
_LONGEST_WAIT_SECONDS: Final = 60.0
_SHORTEST_WAIT_SECONDS: Final = 0.2
_BUSY: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_DENIED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_LARGEST_ERROR_BYTES: Final = 1 << 16
_LONGEST_LINE_BYTES: Final = 1 << 24
_LONGEST_MESSAGE: Final = 200
_ERRORS: Final = (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError)

Json = dict[str, Any]


class MissingError(NetworkError):
    """The server has no such endpoint."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The server is busy, and the request will be sent again after so many seconds."""

    seconds: float


class BrokenError(NetworkError):
    """The connection ended before the answer did."""


@dataclass(frozen=True, slots=True)
class Complete:
    """The answer has ended as it should."""


Event = Json | Waiting | Complete


class _BusyError(Exception):
    """The server asks to come back after `seconds`."""

    def __init__(self, seconds: float, failure: NetworkError) -> None:
        super().__init__(str(failure))
        self.seconds = seconds
        self.failure = failure


class Connection:
    """HTTP to the server of a request. The key goes to that server alone: a redirection is an error.

    Every request has its own connection, so closing that one is all that ends it. A server that is busy is asked again
    for up to a minute if `on_busy` is given, which is called with the seconds before each attempt. Raises UsageError
    for a proxy or certificates of the environment that cannot be used.
    """

    def __init__(self, request: ServerRequest, *, on_busy: Callable[[float], None] | None = None) -> None:
        self.request = request
        self._on_busy = on_busy
        self.client = _client(request)

    def url(self, path: str) -> str:
        """Return the address of an endpoint."""
        return self.request.url + path

    def ask(self, path: str, body: Mapping[str, object] | None = None) -> Json:
        """Return the JSON object at `path`, which gets `body` if there is one.

        Raises MissingError if there is no such endpoint, NetworkError if nothing answers within seconds.
        """
        waited = 0.0
        while True:
            try:
                return self._ask(path, body)
            except _BusyError as exc:
                if self._on_busy is None or waited + exc.seconds > _LONGEST_WAIT_SECONDS:
                    raise exc.failure from exc
                self._on_busy(exc.seconds)
                time.sleep(exc.seconds)
                waited += exc.seconds
            except _ERRORS as exc:
                failure = self.failure(exc)
                if isinstance(failure, BrokenError) and not self.request.is_encrypted:
                    failure = self._silence()
                raise failure from exc

    def _ask(self, path: str, body: Mapping[str, object] | None) -> Json:
        method = "GET" if body is None else "POST"
        with self.client.stream(method, self.url(path), json=body, timeout=_CONTACT_SECONDS) as response:
            self.check(response, path)
            return self.object_of(response.read())

    def check(self, response: httpx2.Response, path: str) -> None:
        """Raise for a response that is no answer: _BusyError, ResourceError, MissingError or NetworkError."""
        status, url = response.status_code, self.request.url
        if status == HTTPStatus.OK:
            if response.headers.get("content-type", "").startswith("text/html"):
                raise NetworkError(f"{url} answers with a web page: it is no server of a model", Hint.CHECK_SERVER)
            return
        if 300 <= status < 400:
            target = urlsplit(response.headers.get("location", ""))
            to = f"{target.scheme}://{target.netloc}" if target.netloc else target.path
            raise NetworkError(
                f"{url} redirects to {to[:_LONGEST_MESSAGE]}, which was not asked for", Hint.CHECK_SERVER
            )
        body = self._body(response)
        said = self._message(body)
        if status == HTTPStatus.BAD_REQUEST and not self.request.is_encrypted and b"HTTPS" in body:
            raise NetworkError(f"{url} speaks https only. Write {self.request.url_of_other_scheme}")
        if status in _DENIED:
            problem = "does not accept the key" if self.request.key else "wants a key"
            raise NetworkError(f"{url} {problem}", Hint.SERVER_KEY)
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
            raise MissingError(f"{url} has no {path}{said and f': {said}'}", Hint.SERVER_API)
        if status in _BUSY:
            failure = NetworkError(f"{url} is busy{said and f': {said}'}", Hint.RETRY_LATER)
            raise _BusyError(_retry_after(response), failure)
        if status == HTTPStatus.BAD_REQUEST and "context" in said.lower():
            raise ResourceError(f"The conversation does not fit on the server: {said}", Hint.SHORTER_CONVERSATION)
        hints = (Hint.RETRY_LATER,) if status >= HTTPStatus.INTERNAL_SERVER_ERROR else ()
        raise NetworkError(f"{url} answers with HTTP status {status}{said and f': {said}'}", *hints)

    def failure(self, exc: Exception) -> NetworkError:
        """Return the error of ours for one of the HTTP library."""
        url = self.request.url
        if isinstance(exc, httpx2.ProxyError):
            return NetworkError(f"The proxy does not connect to {url}", Hint.CHECK_SERVER)
        if isinstance(exc, httpx2.ConnectError | httpx2.ConnectTimeout):
            if "CERTIFICATE_VERIFY" in str(exc):
                return NetworkError(f"The certificate of {self.request.address} is not valid: {first_line(exc)}")
            if _is_caused_by(exc, ssl.SSLError):
                other = self.request.url_of_other_scheme
                return NetworkError(f"{self.request.address} does not speak https, it seems. Try {other}")
            if _is_caused_by(exc, socket.gaierror):
                return NetworkError(f"The host name {self.request.host} is unknown", Hint.CHECK_SERVER)
            return NetworkError(f"Nothing answers at {url}", Hint.CHECK_SERVER)
        if isinstance(exc, httpx2.TimeoutException):
            return NetworkError(f"{url} does not answer", Hint.CHECK_SERVER)
        return BrokenError(f"The connection to {url} broke", Hint.RETRY)

    def _silence(self) -> NetworkError:
        """Return the error about a connection without encryption that ended without an answer."""
        other = self.request.url_of_other_scheme
        return NetworkError(
            f"{self.request.url} ends the connection without an answer. If it speaks https, write {other}"
        )

    def object_of(self, data: bytes | str) -> Json:
        """Return a JSON object. Raises NetworkError for anything else, and for an error that the server reports."""
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as exc:
            raise NetworkError(
                f"{self.request.url} answers with something that is not JSON", Hint.CHECK_SERVER
            ) from exc
        if not isinstance(value, dict):
            raise NetworkError(f"{self.request.url} answers with unexpected JSON", Hint.CHECK_SERVER)
        if value.get("error"):
            raise NetworkError(
                f"{self.request.url} reports an error: {self._without_key(_error_text(value))}", Hint.RETRY
            )
        return value

    def _body(self, response: httpx2.Response) -> bytes:
        """Return the beginning of the body of an error."""
        data = b""
        with suppress(*_ERRORS):
            for piece in response.iter_bytes():
                data += piece
                if len(data) > _LARGEST_ERROR_BYTES:
                    break
        return data

    def _message(self, data: bytes) -> str:
        """Return what the server says about an error, in one short line without the key."""
        try:
            return self._without_key(_error_text(json.loads(data)))
        except (ValueError, RecursionError):
            return ""

    def _without_key(self, text: str) -> str:
        return text.replace(self.request.key, "…") if self.request.key else text


def _client(request: ServerRequest) -> httpx2.Client:
    """Return a client for a server. Raises UsageError for a proxy or certificates that it cannot use."""
    try:
        return httpx2.Client(
            headers={"Authorization": f"Bearer {request.key}"} if request.key else {},
            timeout=httpx2.Timeout(_SILENCE_SECONDS, connect=_CONTACT_SECONDS),
            limits=httpx2.Limits(max_keepalive_connections=0),
            trust_env=not request.is_local,  # no proxy stands between a machine and itself
        )
    except ImportError as exc:
        raise UsageError("The proxy of the environment is a SOCKS proxy", Hint.INSTALL_SOCKS) from exc
    except (OSError, ValueError, httpx2.InvalidURL) as exc:
        raise UsageError(
            "The proxy, SSL_CERT_FILE or SSL_CERT_DIR of the environment cannot be used. Correct it"
        ) from exc


class Exchange:
    """One request, made in a thread of its own; `take` returns what has arrived.

    With `stream` the answer is a stream of server-sent events, else one object.
    """

    def __init__(self, connection: Connection, path: str, body: Mapping[str, object], *, stream: bool) -> None:
        self._connection = connection
        self._path = path
        self._body = body
        self._stream = stream
        self._events: queue.SimpleQueue[Event | GptossError | Exception] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._socket: socket.socket | None = None
        threading.Thread(target=self._run, name="remote", daemon=True).start()

    def take(self, seconds: float) -> Event | None:
        """Return the next event; None if there is none within `seconds`. Raises the error that ended the exchange."""
        try:
            event = self._events.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(event, Exception):
            raise event
        return event

    def close(self) -> None:
        """Close the connection, so that the server stops. May be called twice and at any time."""
        self._closed.set()
        self._shut_down()

    def _shut_down(self) -> None:
        # The thread may be waiting for bytes: closing the socket would not wake it, ending its connection does.
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            waited = 0.0
            while (seconds := self._attempt(waited)) is not None:
                waited += seconds
                self._events.put(Waiting(seconds))
                if self._closed.wait(seconds):
                    return
        except GptossError as exc:
            self._events.put(exc)
        except _ERRORS as exc:
            self._events.put(self._connection.failure(exc))
        except Exception as exc:  # noqa: BLE001  raised again in the thread that takes the events
            # The HTTP library raises anything when its connection ends under it.
            if not self._closed.is_set():
                self._events.put(exc)

    def _attempt(self, waited: float) -> float | None:
        """Send the request and pass its answer on; return the seconds to wait before the next attempt, or None."""
        try:
            self._request()
        except _BusyError as exc:
            if waited + exc.seconds > _LONGEST_WAIT_SECONDS:
                raise exc.failure from exc
            return exc.seconds
        return None

    def _request(self) -> None:
        connection = self._connection
        with connection.client.stream(
            "POST", connection.url(self._path), json=self._body, extensions={"trace": self._trace}
        ) as response:
            connection.check(response, self._path)
            if not self._stream:
                self._events.put(connection.object_of(response.read()))
                self._events.put(Complete())
                return
            for data in _event_data(self._lines(response)):
                if data == "[DONE]":
                    self._events.put(Complete())
                    return
                self._events.put(connection.object_of(data))
        # llama-server ends its stream without a mark: whoever reads the objects knows the last one.
        self._events.put(Complete())

    def _lines(self, response: httpx2.Response) -> Iterator[str]:
        """Yield the lines of an answer. Only a newline ends one: text may have other characters that end lines."""
        rest = b""
        for piece in response.iter_bytes():
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in lines)
            if len(rest) > _LONGEST_LINE_BYTES:
                raise NetworkError(f"{self._connection.request.url} sends a line without an end", Hint.CHECK_SERVER)

    def _trace(self, name: str, info: Mapping[str, Any]) -> None:
        """Keep the socket as soon as there is one: the answer may be awaited for minutes before there is a response."""
        found = getattr(info.get("return_value"), "get_extra_info", lambda name: None)("socket")
        if found is not None:
            self._socket = found
            if self._closed.is_set():
                self._shut_down()


def _is_caused_by(exc: BaseException | None, kind: type[BaseException]) -> bool:
    """Return True if `exc`, or an exception that led to it, is of a kind."""
    while exc is not None and not isinstance(exc, kind):
        exc = exc.__cause__ or exc.__context__
    return exc is not None


def _event_data(lines: Iterator[str]) -> Iterator[str]:
    """Yield the data of server-sent events. Comments keep a connection alive and say nothing."""
    for line in lines:
        name, _, value = line.partition(":")
        if name in ("data", "error"):
            yield value.strip()


def _retry_after(response: httpx2.Response) -> float:
    text = response.headers.get("retry-after", "")
    return max(float(text), _SHORTEST_WAIT_SECONDS) if re.fullmatch(r"\d{1,6}", text) else 1.0


def _error_text(value: object) -> str:
    """Return the message in the JSON of an error, whichever server wrote it."""
    for _ in range(2):
        if isinstance(value, dict):
            value = next((value[key] for key in ("error", "message", "detail") if value.get(key)), "")
    text = value if isinstance(value, str) else ""
    return " ".join(text.split())[:_LONGEST_MESSAGE].rstrip(".")
