"""The server in a thread of the tests, with a scripted model behind it. Needs the extra `serve`."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from gptoss_cli.chat.request import ChatRequest, OpenedModel
from gptoss_cli.server.app import ServerSettings, create_app
from gptoss_cli.server.listener import Listener, listen
from gptoss_cli.server.worker import Worker
from tests.cli.scripted_program import opened_with
from tests.scripted_generator import ScriptedGenerator
from tests.server.turns import ids_of

SECONDS: Final = 20


class Running:
    """A server in a thread, and its address."""

    def __init__(
        self,
        open_model: Callable[[], OpenedModel],
        settings: ServerSettings | None = None,
        *,
        queue_limit: int = 16,
        conversations: int = 1,
        batch: int = 1,
        idle_seconds: float | None = None,
    ) -> None:
        self.worker = Worker(
            open_model, queue_limit=queue_limit, conversations=conversations, batch=batch, idle_seconds=idle_seconds
        )
        self._listener = Listener(create_app(self.worker, settings or ServerSettings()), self.worker)
        self._socket = listen("127.0.0.1", 0)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._listener.run, args=(self._socket,), daemon=True)

    def __enter__(self) -> "Running":
        self.worker.start()
        self._thread.start()
        wait_until(lambda: self.worker.served is not None)
        return self

    def __exit__(self, *exc: object) -> None:
        self.worker.close()
        self._listener.stop()
        self._thread.join(SECONDS)
        self._socket.close()

    def request(
        self, path: str, body: object = None, *, method: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers (in lower case) and body of a response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        connection.request(method or ("GET" if data is None else "POST"), path, data, headers or {})
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        content = response.read()
        connection.close()
        return response.status, found, content

    def post(self, path: str, body: object) -> Any:
        """Return the JSON of a response, whose status must be 200."""
        status, _, content = self.request(path, body)
        assert status == 200, content
        return json.loads(content)

    def send(self, path: str, body: object) -> socket.socket:
        """Send a request and return its connection."""
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n\r\n"
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)
        connection.sendall(head.encode() + data)
        return connection


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def scripted(*turns: str, context_tokens: int = 4096) -> Callable[[], OpenedModel]:
    return lambda: opened_with(ScriptedGenerator(map(ids_of, turns), context_tokens=context_tokens), ChatRequest())
