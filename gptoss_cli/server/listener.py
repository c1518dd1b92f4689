"""The program around the application: a socket, uvicorn, and the order in which everything ends."""

import errno
import logging
import socket
import threading
from types import FrameType
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from gptoss_cli.errors import Hint, UsageError
from gptoss_cli.server.worker import Worker

# The running answer ends within a token; after that, connections that stay open are closed.
_GRACE_SECONDS: Final = 10
_WAITING_CONNECTIONS: Final = 128


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises UsageError if the address cannot be used."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise UsageError(f"{host} is no address of this machine ({exc.strerror})") from exc
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(_WAITING_CONNECTIONS)
    except OSError as exc:
        listener.close()
        if exc.errno == errno.EADDRINUSE:
            raise UsageError(f"Another program listens on {host}:{port} already", Hint.ANOTHER_PORT) from exc
        raise UsageError(f"{host}:{port} cannot be used ({exc.strerror})") from exc
    return listener


class _Uvicorn(uvicorn.Server):
    """A server that ends the running answer when a signal ends it: the connections then close by themselves."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in order. uvicorn raises the signal again afterwards, for the handler that was there before."""
        super().handle_exit(sig, frame)
        # Not here: the signal may have interrupted a thread that holds the lock of the queue.
        threading.Thread(target=self._worker.close, daemon=True).start()


class Listener:
    """Serves an application on a socket until a signal, or `stop`, ends it."""

    def __init__(self, app: ASGIApp, worker: Worker) -> None:
        config = uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            lifespan="off",
            http="h11",  # else uvicorn takes whatever parser is installed, and rubbish is answered differently
            timeout_graceful_shutdown=_GRACE_SECONDS,
            server_header=False,
            ws="none",
        )
        self._server = _Uvicorn(config, worker)
        self._worker = worker

    def run(self, listener: socket.socket) -> None:
        """Serve until the end. Signals are raised again after it."""
        # Neither warns of anything but clients that send rubbish or go away.
        for name in ("uvicorn", "asyncio"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            self._server.run(sockets=[listener])
        finally:
            self._worker.close()
            # A model that is still being loaded is not waited for.
            self._worker.join(_GRACE_SECONDS if self._worker.served is not None else 0)

    def stop(self) -> None:
        """End in order. Any thread may call it."""
        self._server.should_exit = True
