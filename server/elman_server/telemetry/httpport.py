"""A small HTTP port for a WSGI application, with few and short connections."""

import contextlib
import errno
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import WSGIApplication

CONNECTIONS = 16
"""Most connections at once, each with a separate thread. A further connection replaces the oldest:
a client that reads its answer is done long before its connection is the oldest."""
_SECONDS = 5.0
"""Time limit for each read of a request, and for the whole answer."""
_PAUSE_SECONDS = 0.2
"""Pause after a failed accept because the system has no descriptor or no memory: the listening
socket stays readable meanwhile."""
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_STOP_SECONDS = 1.0
_BLANK = (b"\r\n", b"\n")
"""The end of headers."""


@contextmanager
def serving(application: WSGIApplication, host: str, port: int) -> Iterator[int]:
    """Serves on separate threads and yields the port. Raises `OSError` if the port can't be
    bound."""
    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    kind = type("HttpPort", (_Server,), {"address_family": family})
    server: _Server
    with make_server(host, port, application, kind, handler_class=_Handler) as server:
        thread = threading.Thread(
            target=server.serve_forever, args=[_PAUSE_SECONDS], name="elman-http", daemon=True
        )
        thread.start()
        try:
            yield server.server_port
        finally:
            stop = threading.Thread(target=server.shutdown, daemon=True)
            stop.start()
            stop.join(_STOP_SECONDS)
            server.drop_all()


class _LastLine:
    """A file, and the last line that was read of it."""

    def __init__(self, file: BufferedIOBase) -> None:
        self.file = file
        self.last = b""

    def readline(self, size: int = -1) -> bytes:
        self.last = self.file.readline(size)
        return self.last


class _Handler(WSGIRequestHandler):
    timeout = _SECONDS

    def parse_request(self) -> bool:
        """Returns False also if the connection ends before the blank line after the headers. The
        library would answer such a request."""
        lines = _LastLine(self.rfile)
        self.rfile = lines  # type: ignore[assignment]
        try:
            return super().parse_request() and lines.last in _BLANK
        finally:
            self.rfile = lines.file

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any, **options: Any) -> None:
        self._lock = threading.Lock()
        self._connections: OrderedDict[socket.socket, None] = OrderedDict()
        super().__init__(*args, **options)

    def server_bind(self) -> None:
        """Binds without looking up the host's name, which would query a name server."""
        TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                time.sleep(_PAUSE_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._connections) >= CONNECTIONS:
                _drop(self._connections.popitem(last=False)[0])
            self._connections[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores the error of a broken or dropped connection."""

    def drop_all(self) -> None:
        with self._lock:
            for request in self._connections:
                _drop(request)


def _drop(connection: socket.socket) -> None:
    """Shuts a connection down. The connection's thread then sees the end and closes the socket."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
