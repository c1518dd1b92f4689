"""A SOCKS proxy on this machine, without a password (RFC 1928)."""

import shutil
import socket
import socketserver
import threading
from types import TracebackType
from typing import Self


class SocksServer:
    """A proxy that counts its connections."""

    def __init__(self) -> None:
        self.connections = 0
        self._server = _Server(self)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"socks5://127.0.0.1:{self._server.server_address[1]}"


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, proxy: SocksServer) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        _version, methods = self.rfile.read(2)
        self.rfile.read(methods)
        self.wfile.write(b"\x05\x00")
        kind = self.rfile.read(4)[3]
        length = 4 if kind == 1 else self.rfile.read(1)[0]
        address = self.rfile.read(length)
        host = socket.inet_ntoa(address) if kind == 1 else address.decode()
        port = int.from_bytes(self.rfile.read(2))
        self.server.proxy.connections += 1
        with socket.create_connection((host, port)) as far, far.makefile("rb", buffering=0) as answers:
            self.wfile.write(b"\x05\x00\x00\x01" + bytes(6))
            threading.Thread(target=self._forward, args=(far,), daemon=True).start()
            shutil.copyfileobj(answers, self.wfile)

    def _forward(self, far: socket.socket) -> None:
        while data := self.connection.recv(1 << 16):
            far.sendall(data)
        far.shutdown(socket.SHUT_WR)
