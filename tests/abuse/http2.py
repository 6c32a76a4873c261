"""An HTTP/2 client that can misbehave: windows, resets, half messages and frames are the test's."""

import contextlib
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import Self

from google.protobuf.message import Message
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes, Settings

STREAM = "/elman.v1.Inference/Stream"
PREDICT = "/elman.v1.Inference/Predict"
GET_MODEL = "/elman.v1.Inference/GetModel"
LIST_MODELS = "/elman.v1.Inference/ListModels"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

WIDE_OPEN = 2**31 - 1
"""The largest window."""
_FIRST_WINDOW = 65_535
"""What a connection's window is before the first WINDOW_UPDATE; no setting changes it."""
_PATIENCE_SECONDS = 10.0
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: a close sends RST."""


def packed(message: Message | bytes) -> bytes:
    """A gRPC message as DATA carries it: uncompressed, with its length before it."""
    content = message if isinstance(message, bytes) else message.SerializeToString()
    return b"\0" + struct.pack(">I", len(content)) + content


@dataclass
class Call:
    """One RPC: what came of it so far."""

    number: int
    """The HTTP/2 stream's."""
    received: bytearray = field(default_factory=bytearray)
    status: int | None = None
    """grpc-status, when it came."""
    message: str = ""
    reset: int | None = None
    """The error code of RST_STREAM, when it came."""
    ended: bool = False

    def messages(self) -> list[bytes]:
        """The whole gRPC messages that came."""
        found, first = [], 0
        while len(self.received) >= first + 5:
            size = int.from_bytes(self.received[first + 1 : first + 5], "big")
            if len(self.received) < first + 5 + size:
                break
            found.append(bytes(self.received[first + 5 : first + 5 + size]))
            first += 5 + size
        return found


class Connection:
    """Answers SETTINGS and PINGs whenever it reads, and keeps to the server's windows."""

    def __init__(
        self,
        target: str,
        *,
        window: int = WIDE_OPEN,
        acknowledges: bool = True,
        receive_buffer: int | None = None,
        seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """`window`: bytes that the server may send on each call; 0 holds everything back.
        `acknowledges`: whether what was read makes room in the windows again. `receive_buffer`:
        bytes that the kernel takes for a connection that doesn't read. `seconds`: to connect, and
        for the server's first word."""
        host, _, port = target.rpartition(":")
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(seconds)
        self.socket.connect((host, int(port)))
        self.socket.settimeout(_PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._host = target
        self._acknowledges = acknowledges
        self.calls: dict[int, Call] = {}
        self.gone = False
        """Whether the server ended the connection, or said that it will."""
        self.http2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                validate_inbound_headers=False,
            )
        )
        self.http2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: window,
                SettingCodes.MAX_FRAME_SIZE: 16_384,
            },
        )
        self.http2.initiate_connection()
        if window:
            self.http2.increment_flow_control_window(WIDE_OPEN - _FIRST_WINDOW)
        self.flush()
        self._settled = False
        self.pump(seconds, until=lambda: self._settled)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(
        self, path: str, *more: tuple[str, str], first: bytes = b"", end: bool = False
    ) -> Call:
        """Begins an RPC, with so much of its DATA, in as few writes as possible."""
        number = self.http2.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", self._host),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        self.http2.send_headers(number, headers)
        call = self.calls[number] = Call(number)
        if first or end:
            self.send(call, first, end=end)
        else:
            self.flush()
        return call

    def send(
        self, call: Call, data: bytes, *, end: bool = False, seconds: float = _PATIENCE_SECONDS
    ) -> bool:
        """Sends DATA as the server's windows allow; False if not all of it went in time, or the
        call ended before."""
        begun = monotonic()
        view = memoryview(data)
        while view or end:
            if call.ended or self.gone:
                return False
            room = self.http2.local_flow_control_window(call.number)
            size = min(len(view), room, self.http2.max_outbound_frame_size)
            if size or not view:
                last = end and size == len(view)
                self.http2.send_data(call.number, bytes(view[:size]), end_stream=last)
                view = view[size:]
                if last:
                    break
            else:
                self.flush()
                left = begun + seconds - monotonic()
                if left <= 0:
                    return False
                self.pump(min(left, 0.05), until=lambda: self._has_room(call))
        self.flush()
        return True

    def reset(self, call: Call, *, flush: bool = True) -> None:
        """RST_STREAM with CANCEL, as gRPC's clients send it."""
        if not call.ended:
            self.http2.reset_stream(call.number, error_code=8)
            call.ended = True
        if flush:
            self.flush()

    def raw(self, data: bytes) -> None:
        """Bytes past all rules."""
        self.socket.sendall(data)

    def flush(self) -> None:
        if data := self.http2.data_to_send():
            self.socket.sendall(data)

    def pump(self, seconds: float = _PATIENCE_SECONDS, *, until: Callable[[], bool]) -> bool:
        """Reads for so long, or until that holds; whether it does."""
        end = monotonic() + seconds
        while not (done := until()) and not self.gone:
            left = max(0.0, end - monotonic())
            if not select.select([self.socket], [], [], left)[0]:
                break
            self._receive()
            if not left:
                break
        return done or until()

    def read(self, seconds: float) -> None:
        """Reads what comes in so long."""
        self.pump(seconds, until=lambda: False)

    def close(self, *, reset: bool = False) -> None:
        """`reset`: as when the process is killed with unread data."""
        if reset:
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.socket.close()

    def _has_room(self, call: Call) -> bool:
        return call.ended or self.http2.local_flow_control_window(call.number) > 0

    def _receive(self) -> None:
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionError:
            data = b""
        if not data:
            self.gone = True
            for call in self.calls.values():
                call.ended = True
            return
        for event in self.http2.receive_data(data):
            self._take(event)
        with contextlib.suppress(ConnectionError):
            self.flush()

    def _take(self, event: Event) -> None:
        if isinstance(event, RemoteSettingsChanged):
            self._settled = True
        elif isinstance(event, ConnectionTerminated):
            self.gone = self.gone or event.error_code != 0
            return
        call = self.calls.get(getattr(event, "stream_id", None) or 0)
        if call is None:
            return
        if isinstance(event, DataReceived):
            call.received += event.data or b""
            if self._acknowledges and event.flow_controlled_length:
                self.http2.acknowledge_received_data(event.flow_controlled_length, call.number)
        elif isinstance(event, TrailersReceived | ResponseReceived):
            headers = dict(event.headers or ())
            if b"grpc-status" in headers:
                call.status = int(headers[b"grpc-status"])
                call.message = headers.get(b"grpc-message", b"").decode()
        elif isinstance(event, StreamReset):
            call.reset = event.error_code
            call.ended = True
        elif isinstance(event, StreamEnded):
            call.ended = True
