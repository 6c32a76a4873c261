"""The `elman.v1.Inference` service."""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from elman.v1 import inference_pb2 as pb
from elman_server.config import ServerConfig
from elman_server.durable.named.lease_keeper import LeaseKeeper
from elman_server.engine.admission import Admission
from elman_server.errors import InvalidRequest, TicketRejected
from elman_server.frontend import identity
from elman_server.frontend.grpcio.gate import Call, Gate, Gone
from elman_server.frontend.grpcio.slow_readers import SlowReaders
from elman_server.frontend.turns import Turns
from elman_server.frontend.wire import descriptions, naming
from elman_server.frontend.wire.predict import predict
from elman_server.frontend.wire.stream import StreamRpc
from elman_server.frontend.withheld import Withheld
from elman_server.serving.served import Catalog, ServedModel
from elman_server.telemetry.metrics import Metrics
from elman_server.telemetry.table import (
    CALLS_GIVEN_UP,
    MESSAGES_RECEIVED,
    MESSAGES_SENT,
    SERVER,
    TICKETS_REJECTED,
)

_NO_FRAME = "a frame is no elman.v1.StreamRequest"
_SERVER = "elman-server"
"""Key of the initial metadata of a Stream. The value names the server process: a client of many
servers behind one address learns the name of a server that refuses a session."""

SERVICE = pb.DESCRIPTOR.services_by_name["Inference"].full_name


class InferenceServicer:
    def __init__(
        self,
        *,
        catalog: Catalog,
        admission: Admission,
        config: ServerConfig,
        gate: Gate,
        metrics: Metrics,
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
            clock=time.monotonic,
            given_up=lambda reason: counts.inc(CALLS_GIVEN_UP, by=reason),
        )
        self._withheld = Withheld(max_nbytes=config.max_unread_bytes)
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def handler(self) -> grpc.GenericRpcHandler:
        """The service's methods, as in generated code, but with serialized responses."""
        gate = self._gate
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "ListModels": gate.unary(
                    SERVICE, "ListModels", self._list_models, pb.ListModelsRequest
                ),
                "GetModel": gate.unary(SERVICE, "GetModel", self._get_model, pb.GetModelRequest),
                "ListLabels": gate.unary(
                    SERVICE, "ListLabels", self._list_labels, pb.ListLabelsRequest
                ),
                "Predict": gate.unary(SERVICE, "Predict", self._predict, pb.PredictRequest),
                "Stream": gate.stream(SERVICE, "Stream", self._stream, request=pb.StreamRequest),
            },
        )

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

    async def _list_models(self, _: pb.ListModelsRequest, __: Call) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=self._describe(list(self._catalog.current())))

    async def _get_model(self, request: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        caller = identity.of(call.context)
        checkpoint = None
        if request.session and not request.ticket:
            checkpoint = await self._checkpoint(request, caller)
        if request.ticket:
            model = self._model_of(request.ticket, request.name, caller)
        elif checkpoint is not None:
            with naming.explained():
                model = self._model_of(checkpoint, request.name, caller)
        else:
            model = self._catalog.get(request.name, request.version)
        return pb.GetModelResponse(model=self._describe([model])[0])

    async def _list_labels(self, request: pb.ListLabelsRequest, _: Call) -> pb.ListLabelsResponse:
        model = self._catalog.get(request.model, request.version)
        most = self._config.max_message_bytes
        return descriptions.labels(model.file, request.output, request.start, most)

    async def _predict(self, request: pb.PredictRequest, call: Call) -> pb.PredictResponse:
        model = self._catalog.get(request.model, request.version)
        with self._under_way():
            return await predict(
                model,
                request,
                turns=self._turns,
                max_message_bytes=self._config.max_message_bytes,
                hold=call.hold,
            )

    async def _stream(self, call: Call) -> None:
        try:
            await call.context.send_initial_metadata(((_SERVER, self._name),))
        except grpc.aio.InternalError as error:
            raise Gone from error
        requests = _Requests(call)
        first = await requests.first(self._gate)
        if first is None:
            return
        if not first.model:
            raise InvalidRequest("the first frame names no `model`")
        stream = StreamRpc(
            model=self._catalog.get(first.model, first.version),
            admission=self._admission,
            identity=identity.of(call.context),
            lease_keeper=self._lease_keeper,
            turns=self._turns,
            withheld=self._withheld,
            window=self._config.window,
            max_message_bytes=self._config.max_message_bytes,
            max_age=self._age(),
            grace=self._config.grace_period,
            opening=call.open,
        )

        async def write(response: bytes) -> None:
            call.metrics.inc(MESSAGES_SENT)
            self._slow_readers.writes(stream)
            try:
                await call.context.write(response)
                call.inflow.wrote(len(response))
            except grpc.aio.InternalError as error:
                raise Gone from error
            finally:
                self._slow_readers.wrote(stream)

        self._streams.add(stream)
        try:
            with self._under_way():
                await stream.run(first, requests, write)
        finally:
            self._streams.discard(stream)

    def _describe(self, models: Sequence[ServedModel]) -> list[pb.Model]:
        return descriptions.describe(models, self._config.max_message_bytes)

    def _age(self) -> float:
        """Maximum age of a stream in seconds. Varies by 10 %, so not all streams end at once."""
        most = self._config.max_connection_age
        return most * random.uniform(0.9, 1.1) if most else inf

    async def _checkpoint(self, request: pb.GetModelRequest, identity: str) -> bytes | None:
        """Returns a named session's checkpoint, if any. Raises a `ServerError`."""
        if self._lease_keeper is None:
            raise InvalidRequest(
                f"session {request.session!r} has a name; this server has no state store"
            )
        return await self._lease_keeper.peek(naming.key(request.name, identity, request.session))

    def _model_of(self, ticket: bytes, name: str, identity: str) -> ServedModel:
        """Returns the model version of a ticket. Raises `TicketRejected`."""
        model = self._catalog.whichever(name)
        try:
            origin = model.tickets.origin(ticket, identity)
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
    """Iterator over the frames of an RPC. Not a generator: nested with gRPC's own generator, each
    frame would cost more."""

    def __init__(self, call: Call) -> None:
        self._read: Callable[[], Awaitable[Any]] = call.context.read
        self._metrics = call.metrics
        self._inflow = call.inflow
        self._call = call

    async def first(self, gate: Gate) -> pb.StreamRequest | None:
        """Reads the first frame; None if the client sends no frame. Raises a `ServerError`."""
        try:
            frame: pb.StreamRequest | None = await gate.first(self._call)
        except DecodeError:
            raise InvalidRequest(_NO_FRAME) from None
        if frame is not None:
            self._metrics.inc(MESSAGES_RECEIVED)
        return frame

    def __aiter__(self) -> "_Requests":
        return self

    async def __anext__(self) -> pb.StreamRequest:
        try:
            request = await self._read()
        except DecodeError:
            raise InvalidRequest(_NO_FRAME) from None
        if request is grpc.aio.EOF:
            raise StopAsyncIteration
        self._metrics.inc(MESSAGES_RECEIVED)
        frame: pb.StreamRequest = request
        self._inflow.message(frame.ByteSize())
        return frame
