"""The `elman.v1.Inference` service."""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import TypeVar

from google.protobuf.message import Message

from elman.v1 import inference_pb2 as pb
from elman_server.config import ServerConfig
from elman_server.durable.named.lease_keeper import LeaseKeeper
from elman_server.engine.admission import Admission
from elman_server.errors import InvalidRequest, TicketRejected
from elman_server.frontend.caller import Caller
from elman_server.frontend.connection import lookup, naming
from elman_server.frontend.connection.withheld import Withheld
from elman_server.frontend.gate.gate import AdmittedCall, Gate
from elman_server.frontend.gate.slow_readers import SlowReaders
from elman_server.frontend.transport import Method
from elman_server.frontend.turns import Turns
from elman_server.frontend.wire import descriptions
from elman_server.frontend.wire.messages import parse
from elman_server.frontend.wire.predict import predict
from elman_server.frontend.wire.stream import StreamLimits, StreamRpc
from elman_server.serving.served import Catalog, ServedModel
from elman_server.telemetry.metrics import Metrics
from elman_server.telemetry.table import (
    CALLS_GIVEN_UP,
    MESSAGES_RECEIVED,
    MESSAGES_SENT,
    SERVER,
    TICKETS_REJECTED,
)

_FRAME = "a frame"
_SERVER = "elman-server"
"""Key of the initial metadata of a Stream. The value names the server process: a client of many
servers behind one address learns the name of a server that refuses a session."""

SERVICE = pb.DESCRIPTOR.services_by_name["Inference"].full_name

_Request = TypeVar("_Request", bound=Message)


class InferenceServicer:
    def __init__(
        self,
        *,
        catalog: Catalog,
        admission: Admission,
        config: ServerConfig,
        gate: Gate,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        lease_keeper: LeaseKeeper | None = None,
    ) -> None:
        """`lease_keeper` keeps named sessions; None without a state store."""
        self._catalog = catalog
        self._lease_keeper = lease_keeper
        self._admission = admission
        self._gate = gate
        self._config = config
        self._name = secrets.token_hex(8)
        self._streams: set[StreamRpc] = set()
        self._turns = Turns()
        counts = metrics.labels(SERVER)
        self._slow_readers = SlowReaders(
            timeout=config.read_timeout or inf,
            max_nbytes=config.max_unread_bytes,
            clock=clock,
            given_up=lambda reason: counts.inc(CALLS_GIVEN_UP, by=reason),
        )
        self._withheld = Withheld(max_nbytes=config.max_unread_bytes)
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def methods(self) -> list[Method]:
        return [
            self._unary("ListModels", self._list_models, pb.ListModelsRequest),
            self._unary("GetModel", self._get_model, pb.GetModelRequest),
            self._unary("ListLabels", self._list_labels, pb.ListLabelsRequest),
            self._unary("Predict", self._predict, pb.PredictRequest),
            self._gate.stream(SERVICE, "Stream", self._stream),
        ]

    def _unary(
        self,
        name: str,
        answer: Callable[[_Request, AdmittedCall], Awaitable[Message]],
        kind: type[_Request],
    ) -> Method:
        async def serialized(request: _Request, call: AdmittedCall) -> bytes:
            return (await answer(request, call)).SerializeToString()

        return self._gate.unary(SERVICE, name, serialized, partial(parse, kind))

    async def finish(self) -> None:
        """Lets every stream end with its last session, once admission is closed. Returns when all
        RPCs with sessions have sent all responses."""
        for stream in self._streams:
            stream.notify()
        await self._idle.wait()

    async def cleaned_up(self) -> None:
        """Returns when all sessions of finished streams have ended."""
        await self._turns.finished()

    def detach(self, model: ServedModel) -> None:
        """Notifies streams of the unload of a model. Each stream on the model opens no more
        sessions and ends with its last session."""
        for stream in self._streams:
            stream.detach(model)

    async def _list_models(
        self, _: pb.ListModelsRequest, __: AdmittedCall
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=self._describe(list(self._catalog.current())))

    async def _get_model(
        self, request: pb.GetModelRequest, call: AdmittedCall
    ) -> pb.GetModelResponse:
        checkpoint = None
        if request.session and not request.ticket:
            checkpoint = await self._checkpoint(request, call.caller)
        if request.ticket:
            model = self._model_of(request.ticket, request.name, call.caller)
        elif checkpoint is not None:
            with lookup.explained():
                model = self._model_of(checkpoint, request.name, call.caller)
        else:
            model = self._catalog.get(request.name, request.version)
        return pb.GetModelResponse(model=self._describe([model])[0])

    async def _list_labels(
        self, request: pb.ListLabelsRequest, _: AdmittedCall
    ) -> pb.ListLabelsResponse:
        model = self._catalog.get(request.model, request.version)
        most = self._config.max_message_bytes
        return descriptions.labels(model.file, request.output, request.start, most)

    async def _predict(self, request: pb.PredictRequest, call: AdmittedCall) -> pb.PredictResponse:
        model = self._catalog.get(request.model, request.version)
        with self._under_way():
            return await predict(
                model,
                request,
                turns=self._turns,
                max_message_bytes=self._config.max_message_bytes,
                hold=call.hold,
            )

    async def _stream(self, call: AdmittedCall) -> None:
        await call.call.start(((_SERVER, self._name),))
        data = await self._gate.first(call)
        if data is None:
            return
        first = parse(pb.StreamRequest, data, _FRAME)
        if not first.model:
            raise InvalidRequest("the first frame names no `model`")
        stream = StreamRpc(
            model=self._catalog.get(first.model, first.version),
            admission=self._admission,
            caller=call.caller,
            lease_keeper=self._lease_keeper,
            turns=self._turns,
            withheld=self._withheld,
            limits=StreamLimits(
                window=self._config.window,
                max_message_bytes=self._config.max_message_bytes,
                max_age=self._age(),
                grace=self._config.grace_period,
            ),
            opening=call.open,
        )
        send, count = call.call.write, call.metrics.inc

        async def write(response: bytes) -> None:
            count(MESSAGES_SENT)
            self._slow_readers.writes(stream)
            try:
                await send(response)
            finally:
                self._slow_readers.wrote(stream)

        self._streams.add(stream)
        try:
            with self._under_way():
                await stream.run(first, _Requests(call), write)
        finally:
            self._streams.discard(stream)

    def _describe(self, models: Sequence[ServedModel]) -> list[pb.Model]:
        return descriptions.describe(models, self._config.max_message_bytes)

    def _age(self) -> float:
        """Maximum age of a stream in seconds. Varies by 10 %, so not all streams end at once."""
        most = self._config.max_connection_age
        return most * random.uniform(0.9, 1.1) if most else inf

    async def _checkpoint(self, request: pb.GetModelRequest, caller: Caller) -> bytes | None:
        """Returns a named session's checkpoint, if any. Raises a `ServerError`."""
        if self._lease_keeper is None:
            raise InvalidRequest(
                f"session {request.session!r} has a name; this server has no state store"
            )
        return await self._lease_keeper.peek(naming.key(request.name, caller, request.session))

    def _model_of(self, ticket: bytes, name: str, caller: Caller) -> ServedModel:
        """Returns the model version of a ticket. Raises `TicketRejected`."""
        model = self._catalog.whichever(name)
        try:
            origin = model.tickets.origin(ticket, caller.identity)
            return self._catalog.fingerprinted(name, origin.fingerprint)
        except TicketRejected as error:
            model.metrics.inc(TICKETS_REJECTED, by=error.reason)
            raise

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        self._active += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()


class _Requests:
    """Iterator over the frames of an RPC after the first. Not a generator: each frame would cost
    more."""

    def __init__(self, call: AdmittedCall) -> None:
        self._read = call.call.read
        self._count = call.metrics.inc

    def __aiter__(self) -> "_Requests":
        return self

    async def __anext__(self) -> pb.StreamRequest:
        data = await self._read()
        if data is None:
            raise StopAsyncIteration
        self._count(MESSAGES_RECEIVED)
        return parse(pb.StreamRequest, data, _FRAME)
