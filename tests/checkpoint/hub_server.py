"""A small Hub on this machine, which can be made to misbehave.

It implements the part of the real protocol that huggingface_hub and the transfer need:
`/api/models/NAME[/revision/REVISION]`, and `/NAME/resolve/COMMIT/FILE` with HEAD, GET, Range, ETag, X-Repo-Commit,
X-Linked-Etag and X-Linked-Size.
"""

import functools
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LATER_COMMIT = "76543210fedcba9876543210fedcba9876543210"
_PIECE_BYTES = 64 << 10


@dataclass
class Request:
    """A request, and the number of bytes that were sent for it."""

    method: str
    path: str
    headers: dict[str, str]
    sent_bytes: int = 0

    @property
    def file(self) -> str:
        """The name of the requested file, or an empty string."""
        return self.path.rpartition("/")[2] if "/resolve/" in self.path or "/store/" in self.path else ""


@dataclass
class Answer:
    """The answer of a misbehaving server."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


# Returns the wrong answer to a request, None for the right one.
Fault = Callable[[Request], Answer | None]


class HubServer:
    """One repository, `repository`, with `files`. All but the small JSON files are in LFS."""

    def __init__(self, files: Mapping[str, bytes], *, repository: str = "openai/gpt-oss-20b") -> None:
        self.files, self.repository = dict(files), repository
        self.commit = COMMIT
        self.requests: list[Request] = []
        self.fault: Fault = lambda request: None
        # Returns the number of bytes that are sent before the connection is cut, None for all of them.
        self.cut: Callable[[Request], int | None] = lambda request: None
        # Called before each piece of an answer.
        self.pace: Callable[[], None] = lambda: None
        self.honours_range = True
        # The address that files are redirected to: `store` of another server.
        self.redirect: str | None = None
        self.wrong_bytes: set[str] = set()
        self.listed: list[dict[str, Any]] | None = None
        self._server = _Server(self)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def store(self) -> str:
        """The address that another server may redirect to. It is signed, as real ones are."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/store"

    def asked(self, file: str) -> list[Request]:
        """Return the GET requests for a file."""
        return [request for request in self.requests if request.file == file and request.method == "GET"]

    def sent_bytes(self, file: str) -> int:
        return sum(request.sent_bytes for request in self.asked(file))

    def listing(self) -> dict[str, Any]:
        siblings = self.listed
        if siblings is None:
            siblings = [self._sibling(name, data) for name, data in self.files.items()]
        return {"id": self.repository, "sha": self.commit, "siblings": siblings}

    def _sibling(self, name: str, data: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_sha1(data)}
        if is_large(name):
            entry["lfs"] = {"size": len(data), "sha256": _sha256(data), "pointerSize": 134}
        return entry


def is_large(name: str) -> bool:
    """Return True if a file is in LFS."""
    return not name.endswith(".json")


@functools.cache
def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: HubServer) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect: the tests are about them."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Bytes in the buffers of the system count as sent, so the buffers must be small.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE_BYTES)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server.hub
        request = Request(self.command, unquote(urlsplit(self.path).path), dict(self.headers))
        hub.requests.append(request)
        wrong = hub.fault(request)
        if wrong is not None:
            self._send(wrong.status, wrong.headers, wrong.body)
        elif request.path.startswith(f"/api/models/{hub.repository}"):
            self._send_listing(request)
        elif request.file in hub.files:
            self._send_file(request, hub.files[request.file])
        else:
            self._refuse("RepoNotFound" if hub.repository not in request.path else "EntryNotFound")

    def _send_listing(self, request: Request) -> None:
        hub = self.server.hub
        _, marker, revision = request.path.partition("/revision/")
        if marker and revision not in ("main", hub.commit):
            self._refuse("RevisionNotFound")
            return
        self._send(200, {"Content-Type": "application/json"}, json.dumps(hub.listing()).encode())

    def _refuse(self, code: str) -> None:
        self._send(404, {"X-Error-Code": code}, b"{}")

    def _send_file(self, request: Request, data: bytes) -> None:
        hub, name = self.server.hub, request.file
        digest = _sha256(data) if is_large(name) else git_sha1(data)
        headers = {"X-Repo-Commit": hub.commit, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        if is_large(name):
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        if hub.redirect and "/resolve/" in request.path:
            self._send(302, headers | {"Location": f"{hub.redirect}/{name}?Signature=secret-signature"}, b"")
            return
        if name in hub.wrong_bytes:
            data = bytes([data[0] ^ 1]) + data[1:]
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if wanted is None or not hub.honours_range:
            self._send_body(request, 200, headers, data)
            return
        first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._send_body(request, 206, headers, data[first : last + 1])

    def _send_body(self, request: Request, status: int, headers: Mapping[str, str], data: bytes) -> None:
        hub = self.server.hub
        self._send_head(status, headers, len(data))
        limit = hub.cut(request)
        for start in range(0, 0 if request.method == "HEAD" else len(data), _PIECE_BYTES):
            piece = data[start : start + _PIECE_BYTES]
            if limit is not None and start + len(piece) > limit:
                self.wfile.write(piece[: max(0, limit - start)])
                request.sent_bytes += max(0, limit - start)
                self.close_connection = True
                return
            hub.pace()
            self.wfile.write(piece)
            request.sent_bytes += len(piece)

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self._send_head(status, headers, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_head(self, status: int, headers: Mapping[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(length))
        self.end_headers()


def pieces_per_second(rate: float) -> Callable[[], None]:
    """Return a pace of `rate` pieces of 64 KiB per second, all connections together."""
    lock = threading.Lock()
    due = time.monotonic()

    def wait() -> None:
        nonlocal due
        with lock:
            due = max(due, time.monotonic()) + 1 / rate
            delay = due - time.monotonic()
        if delay > 0:
            time.sleep(delay)

    return wait
