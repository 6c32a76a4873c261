"""A small HTTP port for a WSGI application: few connections at once, none for long."""

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
"""At once, each with a thread of its own. A further one takes the place of the oldest: whoever asks
and reads is done long before it is that."""
_SECONDS = 5.0
"""For each read of a request, and for the answer as a whole."""
_PAUSE_SECONDS = 0.2
"""Before the next connection is taken when the system has no descriptor or no memory for it: the
listening socket stays readable all the while."""
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_STOP_SECONDS = 1.0
_BLANK = (b"\r\n", b"\n")
"""The end of headers."""


@contextmanager
def serving(application: WSGIApplication, host: str, port: int) -> Iterator[int]:
    """Serves on threads of its own, and says on which port. Raises `OSError` if that can't be
    had."""
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
        """Returns False for a request whose headers break off, which the library takes for whole:
        a connection that was dropped would cost an answer."""
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
        """Without the name of the host, for which a name server would be asked."""
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
        """A connection that broke, or was dropped, is nothing to tell of."""

    def drop_all(self) -> None:
        with self._lock:
            for request in self._connections:
                _drop(request)


def _drop(connection: socket.socket) -> None:
    """Its thread finds it at its end, and closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
