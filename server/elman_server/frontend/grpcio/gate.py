"""The gate for calls of all services: limits by server and by peer, counts, and error statuses.

All methods, including unary methods, are registered as streams of bytes: the wire format is the
same. So a call is admitted before the server reads the request, and an answer's bytes are counted
until the caller has taken the answer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from elman_server.config import ServerConfig
from elman_server.errors import InvalidRequest, Overloaded, RequestTimeout, ServerError
from elman_server.frontend import identity
from elman_server.frontend.calls import Bucket, CallLimits, Calls, Peer
from elman_server.frontend.grpcio import status
from elman_server.frontend.grpcio.connections import Connections
from elman_server.frontend.grpcio.inflow import Inflow, most_held
from elman_server.frontend.grpcio.refusals import Refusals
from elman_server.telemetry.metrics import LabelledMetrics, Metrics
from elman_server.telemetry.table import (
    CALLS,
    MESSAGES_RECEIVED,
    MESSAGES_SENT,
    METHOD,
    RPCS_HANDLED,
    RPCS_STARTED,
    SERVER,
)

_REQUEST_SECONDS = 60.0
"""Time limit for a call's first message to arrive completely."""
_TAKEN_SECONDS = 30.0
"""Time limit for the client to take the answer of a unary call, and the final status of any
call."""
_STUBBORN = 200.0
"""Limit on useless calls a second on a connection, with ten seconds' worth at once. Useless calls
are refused for their rate or reset by the client. Beyond the limit, the connection is closed: a
useless call costs the server as much as a served call."""
_SHORT_SECONDS = 10.0
"""A longer call does not count as reset. A proxy may cancel thousands of calls at once when a
client behind the proxy leaves."""
_KNOWN = 4096
"""Number of connections with a remembered count of useless calls."""

Request = TypeVar("Request", bound=Message)


class Gone(Exception):
    """The RPC ended before the write."""


@dataclass(slots=True, kw_only=True)
class Call:
    """An admitted call."""

    context: Any
    metrics: LabelledMetrics
    peer: str
    """gRPC's name of the peer."""
    by: Peer
    calls: Calls
    inflow: Inflow
    """Bytes received over the call's connection."""
    held: int = 0

    def hold(self, nbytes: int) -> None:
        """Counts more bytes as held until the call ends. Raises `Overloaded`."""
        self.calls.hold(self.by, nbytes)
        self.held += nbytes

    def open(self) -> None:
        """Counts an open of a session by the caller. Raises `Overloaded`."""
        self.calls.open(identity.address(self.peer))


Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Serve = Callable[[Call], Coroutine[None, None, None]]
Answer = Callable[[Request, Call], Awaitable[Message]]


class Gate:
    """Admits, counts and ends calls, for one event loop."""

    def __init__(
        self,
        config: ServerConfig,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls = Calls(
            CallLimits(
                calls=config.max_calls,
                calls_by_peer=config.max_peer_calls,
                calls_a_second=config.max_call_rate,
                opens_a_second=config.max_open_rate,
                nbytes=config.max_unary_bytes,
            ),
            retry_after=config.retry_after,
            clock=clock,
        )
        self._metrics = metrics
        server_metrics = metrics.labels(SERVER)
        self._refusals = Refusals(server_metrics, clock)
        self._connections = Connections(self._refusals.count)
        self._clock = clock
        self._inflows: dict[str, Inflow] = {}
        """Inflow of each connection, by gRPC's name of the peer."""
        self._max_partial_bytes = config.max_partial_bytes
        self._stubborn: dict[str, Bucket] = {}
        server_metrics.watch(CALLS, lambda: self._calls.under_way)

    def watch_connections(self, port: int, most: int) -> None:
        """Starts to close connections of a port: connections without a call while most of the
        port's places are taken, and connections with too many bytes of incomplete messages."""
        self._connections.watch(port, most, self._busy)
        self._connections.bound(port, self._holders, self._busy)

    def _busy(self) -> list[str]:
        """Connections with a call."""
        return [peer for peer, inflow in self._inflows.items() if inflow.calls]

    def _holders(self, received: Mapping[str, int]) -> list[str]:
        """Connections to close, given the bytes received over each connection."""
        now = self._clock()
        self._inflows = {
            peer: inflow
            for peer, inflow in self._inflows.items()
            if peer in received or inflow.calls
        }
        held = {peer: self._inflow(peer).held(nbytes, now) for peer, nbytes in received.items()}
        return most_held(held, self._max_partial_bytes)

    def _inflow(self, peer: str) -> Inflow:
        inflow = self._inflows.get(peer)
        if inflow is None:
            inflow = self._inflows[peer] = Inflow(self._clock())
        return inflow

    def stream(
        self,
        service: str,
        method: str,
        serve: Serve,
        *,
        kind: str = "bidi_stream",
        request: type[Message] | None = None,
        always: bool = False,
    ) -> Handler:
        """A method with full control of reads and writes. `request` is the type of received
        messages; by default, messages are bytes. `always` exempts the method from the limits on
        calls."""
        metrics = self._metrics.labels(METHOD, kind, service, method)

        async def handle(_: Any, context: Any) -> None:
            await self._guard(metrics, context, serve, always=always)

        return grpc.stream_stream_rpc_method_handler(
            handle, request_deserializer=request and request.FromString
        )

    def unary(
        self,
        service: str,
        method: str,
        answer: Answer[Request],
        request: type[Request],
        *,
        always: bool = False,
        most: int | None = None,
    ) -> Handler:
        """A method with a single request and a single answer. `always` exempts the method from the
        limits on calls and held bytes. `most` limits the request's bytes."""

        async def serve(call: Call) -> None:
            found = await self.request(call, request, most=most, hold=not always)
            before = call.held
            data = (await answer(found, call)).SerializeToString()
            del found
            more = len(data) - (call.held - before)
            if more > 0 and not always:  # bytes that `answer` has not counted
                call.hold(more)
            await self.write(call, data)
            call.metrics.inc(MESSAGES_SENT)

        return self.stream(service, method, serve, kind="unary", always=always)

    async def request(
        self, call: Call, kind: type[Request], *, most: int | None = None, hold: bool = True
    ) -> Request:
        """Reads the only request of a call. `hold` counts the request's bytes as held by the call.
        `most` limits the request's bytes. Raises a `ServerError`."""
        data = await self.first(call)
        if data is None:
            raise InvalidRequest("no request came")
        call.metrics.inc(MESSAGES_RECEIVED)
        if most is not None and len(data) > most:
            raise InvalidRequest(f"the request takes {len(data)} bytes; allowed is {most}")
        if hold:
            call.hold(len(data))
        return parse(kind, data)

    async def first(self, call: Call) -> Any:
        """Reads a call's first message; None if the client sends no message. Raises
        `RequestTimeout`."""
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                message = await call.context.read()
        except TimeoutError:
            self._refusals.count("no_request", call.peer, "no request came")
            raise RequestTimeout(f"no request came within {_REQUEST_SECONDS:g} seconds") from None
        if message is grpc.aio.EOF:
            return None
        call.inflow.message(len(message) if isinstance(message, bytes) else message.ByteSize())
        return message

    async def write(self, call: Call, data: bytes) -> None:
        """Writes a message. Returns when the caller has taken the message, or is about to. Closes
        the connection of a caller that does not read. Raises `Gone`."""
        try:
            async with asyncio.timeout(_TAKEN_SECONDS):
                await call.context.write(data)
            call.inflow.wrote(len(data))
        except TimeoutError:
            self._connections.cut(call.peer, reason="unread", why="its answers were not read")
            raise Gone from None
        except grpc.aio.InternalError as error:
            raise Gone from error

    async def _guard(
        self, metrics: LabelledMetrics, context: Any, serve: Serve, *, always: bool
    ) -> None:
        """Runs and counts a call. Turns an exception into the call's status."""
        metrics.inc(RPCS_STARTED)
        peer = identity.peer(context)
        began = self._clock()
        try:
            with self._admitted(metrics, context, peer, always=always) as call:
                await serve(call)
        except ServerError as error:
            # Counted first: a client that gets the error may read the metrics at once.
            metrics.inc(RPCS_HANDLED, by=status.code(error).name)
            if isinstance(error, Overloaded):
                self._refused(error, peer)
            await self._abort(context, error, peer)
        except (Gone, asyncio.CancelledError):
            metrics.inc(RPCS_HANDLED, by=grpc.StatusCode.CANCELLED.name)
            if self._clock() - began < _SHORT_SECONDS:
                self._useless("resets", peer)
            raise asyncio.CancelledError from None
        except Exception:
            metrics.inc(RPCS_HANDLED, by=grpc.StatusCode.INTERNAL.name)
            structlog.get_logger("elman.rpc").exception("bug in a handler")
            await context.abort(
                grpc.StatusCode.INTERNAL, "internal error; the server's log has more"
            )
        else:
            metrics.inc(RPCS_HANDLED, by=grpc.StatusCode.OK.name)

    async def _abort(self, context: Any, error: ServerError, peer: str) -> None:
        """Ends a call with a status. gRPC sends the status after the written messages: a client
        that does not read never gets the status, and gRPC keeps both until the connection ends."""
        try:
            async with asyncio.timeout(_TAKEN_SECONDS):
                await status.abort(context, error)
        except TimeoutError:
            self._connections.cut(peer, reason="unread", why="the end of a call was not read")
            raise asyncio.CancelledError from None

    @contextmanager
    def _admitted(
        self, metrics: LabelledMetrics, context: Any, peer: str, *, always: bool
    ) -> Iterator[Call]:
        by = self._calls.begin(identity.address(peer), always=always)
        inflow = self._inflow(peer)
        call = Call(
            context=context, metrics=metrics, peer=peer, by=by, calls=self._calls, inflow=inflow
        )
        inflow.calls += 1
        try:
            yield call
        finally:
            inflow.end()
            self._calls.free(by, call.held)
            self._calls.end(by)

    def _refused(self, error: Overloaded, peer: str) -> None:
        self._refusals.count(error.reason, peer, str(error))
        if error.reason == "rate":
            self._useless("stubborn", peer)

    def _useless(self, reason: str, peer: str) -> None:
        """Counts a useless call. Closes the peer's connection after too many."""
        now = self._clock()
        bucket = self._stubborn.get(peer)
        if bucket is None:
            if len(self._stubborn) >= _KNOWN:
                self._stubborn.clear()
            bucket = self._stubborn[peer] = Bucket(_STUBBORN, now)
        if not bucket.take(now):
            why = f"more than {_STUBBORN:g} calls a second for nothing"
            self._connections.cut(peer, reason=reason, why=why)


def parse(kind: type[Request], data: bytes) -> Request:
    """Parses a request. Raises `InvalidRequest`."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidRequest(f"the request is no {kind.DESCRIPTOR.full_name}") from None
