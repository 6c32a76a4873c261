"""The gate for calls of all services: limits by server and by peer, counts, and error statuses.

A call is admitted before the server reads the request, and an answer's bytes are counted until the
caller has taken the answer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import structlog

from elman_server.config import ServerConfig
from elman_server.errors import InvalidRequest, Overloaded, RequestTimeout, ServerError
from elman_server.frontend.caller import Caller
from elman_server.frontend.gate.call_limits import Bucket, CallLimits, Calls, Peer
from elman_server.frontend.gate.refusals import Refusals
from elman_server.frontend.status import BUG, OK, Code, Status, status
from elman_server.frontend.transport import Call, Gone, Method
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
"""Time limit for the client to take the answer of a unary call."""
_STUBBORN = 200.0
"""Limit on useless calls a second on a connection, with ten seconds' worth at once. Useless calls
are refused for their rate or reset by the client. Beyond the limit, the connection is closed: a
useless call costs the server as much as a served call."""
_SHORT_SECONDS = 10.0
"""A longer call does not count as reset. A proxy may cancel thousands of calls at once when a
client behind the proxy leaves."""
_KNOWN = 4096
"""Number of connections with a remembered count of useless calls."""


@dataclass(slots=True, kw_only=True)
class AdmittedCall:
    call: Call
    metrics: LabelledMetrics
    by: Peer
    calls: Calls
    held: int = 0

    @property
    def caller(self) -> Caller:
        return self.call.caller

    def hold(self, nbytes: int) -> None:
        """Counts more bytes as held until the call ends. Raises `Overloaded`."""
        self.calls.hold(self.by, nbytes)
        self.held += nbytes

    def open(self) -> None:
        """Counts an open of a session by the caller. Raises `Overloaded`."""
        self.calls.open(self.caller.address)


Request = TypeVar("Request")
Parse = Callable[[bytes], Request]
"""Parses a request. Raises `InvalidRequest`."""
Stream = Callable[[AdmittedCall], Coroutine[None, None, None]]
Answer = Callable[[Request, AdmittedCall], Awaitable[bytes]]
"""Answers a request with a serialized message."""


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
        self._clock = clock
        self._stubborn: dict[str, Bucket] = {}
        server_metrics.watch(CALLS, lambda: self._calls.under_way)

    def connection_closed(self, reason: str, peer: str, why: str) -> None:
        """Counts and logs a connection that was closed for its peer's behaviour."""
        self._refusals.count(reason, peer, why)

    def stream(
        self,
        service: str,
        method: str,
        answer: Stream,
        *,
        kind: str = "bidi_stream",
        always: bool = False,
    ) -> Method:
        """A method with full control of reads and writes. `always` exempts the method from the
        limits on calls."""
        metrics = self._metrics.labels(METHOD, kind, service, method)

        async def serve(call: Call) -> Status:
            return await self._serve(metrics, call, answer, always=always)

        return Method(service=service, name=method, serve=serve)

    def unary(
        self,
        service: str,
        method: str,
        answer: Answer[Request],
        parse: Parse[Request],
        *,
        always: bool = False,
        most: int | None = None,
    ) -> Method:
        """A method with a single request and a single answer. `always` exempts the method from the
        limits on calls and held bytes. `most` limits the request's bytes."""

        async def stream(call: AdmittedCall) -> None:
            found = await self.request(call, parse, most=most, hold=not always)
            before = call.held
            data = await answer(found, call)
            del found
            more = len(data) - (call.held - before)
            if more > 0 and not always:  # bytes that `answer` has not counted
                call.hold(more)
            await self.write(call, data)

        return self.stream(service, method, stream, kind="unary", always=always)

    async def request(
        self,
        call: AdmittedCall,
        parse: Parse[Request],
        *,
        most: int | None = None,
        hold: bool = True,
    ) -> Request:
        """Reads the only request of a call. `hold` counts the request's bytes as held by the call.
        `most` limits the request's bytes. Raises a `ServerError`."""
        data = await self.first(call)
        if data is None:
            raise InvalidRequest("no request came")
        if most is not None and len(data) > most:
            raise InvalidRequest(f"the request takes {len(data)} bytes; allowed is {most}")
        if hold:
            call.hold(len(data))
        return parse(data)

    async def first(self, call: AdmittedCall) -> bytes | None:
        """Reads a call's first message; None if the client sends no message. Raises
        `RequestTimeout`."""
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                message = await call.call.read()
        except TimeoutError:
            self._refusals.count("no_request", call.caller.peer, "no request came")
            raise RequestTimeout(f"no request came within {_REQUEST_SECONDS:g} seconds") from None
        if message is not None:
            call.metrics.inc(MESSAGES_RECEIVED)
        return message

    async def write(self, call: AdmittedCall, data: bytes) -> None:
        """Writes a message. Returns when the caller has taken the message, or is about to. Closes
        the connection of a caller that does not read. Raises `Gone`."""
        try:
            async with asyncio.timeout(_TAKEN_SECONDS):
                await call.call.write(data)
        except TimeoutError:
            call.call.cut(reason="unread", why="its answers were not read")
            raise Gone from None
        call.metrics.inc(MESSAGES_SENT)

    async def _serve(
        self, metrics: LabelledMetrics, call: Call, answer: Stream, *, always: bool
    ) -> Status:
        """Runs and counts a call. Turns an exception into the call's status."""
        metrics.inc(RPCS_STARTED)
        began = self._clock()
        try:
            with self._admitted(metrics, call, always=always) as admitted:
                await answer(admitted)
            end = OK
        except ServerError as error:
            if isinstance(error, Overloaded):
                self._refused(error, call)
            end = status(error)
        except (Gone, asyncio.CancelledError):
            metrics.inc(RPCS_HANDLED, by=Code.CANCELLED.name)
            if self._clock() - began < _SHORT_SECONDS:
                self._useless("resets", call)
            raise asyncio.CancelledError from None
        except Exception:
            structlog.get_logger("elman.rpc").exception("bug in a handler")
            end = BUG
        # Counted first: a client that gets the status may read the metrics at once.
        metrics.inc(RPCS_HANDLED, by=end.code.name)
        return end

    @contextmanager
    def _admitted(
        self, metrics: LabelledMetrics, call: Call, *, always: bool
    ) -> Iterator[AdmittedCall]:
        by = self._calls.begin(call.caller.address, always=always)
        admitted = AdmittedCall(call=call, metrics=metrics, by=by, calls=self._calls)
        try:
            yield admitted
        finally:
            self._calls.free(by, admitted.held)
            self._calls.end(by)

    def _refused(self, error: Overloaded, call: Call) -> None:
        self._refusals.count(error.reason, call.caller.peer, str(error))
        if error.reason == "rate":
            self._useless("stubborn", call)

    def _useless(self, reason: str, call: Call) -> None:
        """Counts a useless call. Closes the peer's connection after too many."""
        now = self._clock()
        peer = call.caller.peer
        bucket = self._stubborn.get(peer)
        if bucket is None:
            if len(self._stubborn) >= _KNOWN:
                self._stubborn.clear()
            bucket = self._stubborn[peer] = Bucket(_STUBBORN, now)
        if not bucket.take(now):
            why = f"more than {_STUBBORN:g} calls a second for nothing"
            call.cut(reason=reason, why=why)
