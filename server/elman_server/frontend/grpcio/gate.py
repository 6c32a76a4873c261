"""What each call passes, whichever service it is for: limits by server and by peer, counts, and the
status of what it raises.

All methods are registered as streams of bytes, the unary ones too, which are the same on the wire:
so a call is admitted before its request is read, and what an answer holds is counted until its
caller has taken it.
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
from elman_server.telemetry.metrics import Metrics, RpcMetrics

_REQUEST_SECONDS = 60.0
"""In which a call's first message is to come, whole."""
_TAKEN_SECONDS = 30.0
"""In which the answer of a call that does not stream is to be taken, and the end of any."""
_STUBBORN = 200.0
"""Calls a second of one connection, and ten seconds' worth at once, that may be refused for their
rate or reset by the client; then it is closed. Each costs the server as much as one that is
served."""
_SHORT_SECONDS = 10.0
"""A call that was under way for longer was no reset in a loop: a proxy may end thousands at once
when one of the clients behind it goes."""
_KNOWN = 4096
"""Connections of which such calls are remembered."""

Request = TypeVar("Request", bound=Message)


class Gone(Exception):
    """The RPC that was to be written to has ended."""


@dataclass(slots=True, kw_only=True)
class Call:
    """One call that was admitted."""

    context: Any
    metrics: RpcMetrics
    peer: str
    """As gRPC names it."""
    by: Peer
    calls: Calls
    inflow: Inflow
    """Of its connection."""
    held: int = 0

    def hold(self, nbytes: int) -> None:
        """It holds so many bytes more, to its end. Raises `Overloaded`."""
        self.calls.hold(self.by, nbytes)
        self.held += nbytes

    def open(self) -> None:
        """Its caller opens a session. Raises `Overloaded`."""
        self.calls.open(identity.address(self.peer))


Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Serve = Callable[[Call], Coroutine[None, None, None]]
Answer = Callable[[Request, Call], Awaitable[Message]]


class Gate:
    """For one event loop."""

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
        self._refusals = Refusals(metrics.refused, clock)
        self._connections = Connections(self._refusals.count)
        self._clock = clock
        self._inflows: dict[str, Inflow] = {}
        """By connection."""
        self._max_partial_bytes = config.max_partial_bytes
        self._stubborn: dict[str, Bucket] = {}
        metrics.watch_calls(lambda: self._calls.under_way)

    def watch_connections(self, port: int, most: int) -> None:
        """Closes connections without a call where most of the places of a port are taken, and
        those that hold too much of what is no message."""
        self._connections.watch(port, most, self._busy)
        self._connections.bound(port, self._holders, self._busy)

    def _busy(self) -> list[str]:
        """Connections that have a call."""
        return [peer for peer, inflow in self._inflows.items() if inflow.calls]

    def _holders(self, received: Mapping[str, int]) -> list[str]:
        """Connections that are to go, of those over which so many bytes came."""
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
        """A method that reads and writes by itself. `request`: what its messages are; bytes without
        it. `always`: whether it is served however many calls there are."""
        metrics = self._metrics.rpc(service, method, kind)

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
        """A method with one request and one answer. `always`: whether it is served however many
        calls there are, and whatever they hold. `most`: bytes of the request."""

        async def serve(call: Call) -> None:
            found = await self.request(call, request, most=most, hold=not always)
            before = call.held
            data = (await answer(found, call)).SerializeToString()
            del found
            more = len(data) - (call.held - before)
            if more > 0 and not always:  # than it asked for by itself
                call.hold(more)
            await self.write(call, data)
            call.metrics.sent.inc()

        return self.stream(service, method, serve, kind="unary", always=always)

    async def request(
        self, call: Call, kind: type[Request], *, most: int | None = None, hold: bool = True
    ) -> Request:
        """The one request of a call, which holds its bytes if it is to `hold` them. `most`: bytes
        of it. Raises a `ServerError`."""
        data = await self.first(call)
        if data is None:
            raise InvalidRequest("no request came")
        call.metrics.received.inc()
        if most is not None and len(data) > most:
            raise InvalidRequest(f"the request takes {len(data)} bytes; allowed is {most}")
        if hold:
            call.hold(len(data))
        return parse(kind, data)

    async def first(self, call: Call) -> Any:
        """A call's first message, or None if none comes. Raises `RequestTimeout`."""
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
        """Returns when a caller has taken it, or is about to. The connection of one that does not
        is closed. Raises `Gone`."""
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
        self, metrics: RpcMetrics, context: Any, serve: Serve, *, always: bool
    ) -> None:
        """Runs a call, counts it, and ends it with the status of what it raises."""
        metrics.started.inc()
        peer = identity.peer(context)
        began = self._clock()
        try:
            with self._admitted(metrics, context, peer, always=always) as call:
                await serve(call)
        except ServerError as error:
            # Counted first: whoever hears of it may look.
            metrics.handled(status.code(error).name)
            if isinstance(error, Overloaded):
                self._refused(error, peer)
            await self._abort(context, error, peer)
        except (Gone, asyncio.CancelledError):
            metrics.handled(grpc.StatusCode.CANCELLED.name)
            if self._clock() - began < _SHORT_SECONDS:
                self._useless("resets", peer)
            raise asyncio.CancelledError from None
        except Exception:
            metrics.handled(grpc.StatusCode.INTERNAL.name)
            structlog.get_logger("elman.rpc").exception("bug in a handler")
            await context.abort(
                grpc.StatusCode.INTERNAL, "internal error; the server's log has more"
            )
        else:
            metrics.handled(grpc.StatusCode.OK.name)

    async def _abort(self, context: Any, error: ServerError, peer: str) -> None:
        """Ends a call with a status. That comes behind what was written: a client that does not
        read does not hear of it, and gRPC keeps both until the connection ends."""
        try:
            async with asyncio.timeout(_TAKEN_SECONDS):
                await status.abort(context, error)
        except TimeoutError:
            self._connections.cut(peer, reason="unread", why="the end of a call was not read")
            raise asyncio.CancelledError from None

    @contextmanager
    def _admitted(
        self, metrics: RpcMetrics, context: Any, peer: str, *, always: bool
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
        """Counts a call that was begun for nothing."""
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
    """Raises `InvalidRequest`."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidRequest(f"the request is no {kind.DESCRIPTOR.full_name}") from None
