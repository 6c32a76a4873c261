"""The `elman.v1.Inference` service."""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from operator import methodcaller
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from elman.v1 import inference_pb2 as pb
from elman.v1 import inference_pb2_grpc as pb_grpc
from elman_server.admission import Admission
from elman_server.config import ServerConfig
from elman_server.errors import InvalidRequest, ServerError, TicketRejected
from elman_server.metrics import Metrics, RpcMetrics
from elman_server.named.keeper import Keeper
from elman_server.served import Catalog, ServedModel
from elman_server.transport import descriptions, identity, naming, status
from elman_server.transport.predict import predict
from elman_server.transport.slow_readers import SlowReaders
from elman_server.transport.stream import StreamRpc
from elman_server.turns import Turns

_SERVER = "elman-server"
"""What comes before the first answer on a Stream: the name of this server process, so that a client
of many behind one address knows which of them would not have a session."""
SERVICE = pb.DESCRIPTOR.services_by_name["Inference"].full_name

_Answer = TypeVar("_Answer")


class InferenceServicer(pb_grpc.InferenceServicer):
    def __init__(
        self,
        *,
        catalog: Catalog,
        admission: Admission,
        config: ServerConfig,
        metrics: Metrics,
        keeper: Keeper | None = None,
    ) -> None:
        """`keeper`: of named sessions, where there is a state store."""
        self._catalog = catalog
        self._keeper = keeper
        self._admission = admission
        self._config = config
        self._name = secrets.token_hex(8)
        self._streams: set[StreamRpc] = set()
        self._turns = Turns()
        self._slow_readers = SlowReaders(
            timeout=config.read_timeout or inf,
            max_nbytes=config.max_unread_bytes,
            clock=time.monotonic,
            given_up=metrics.call_given_up,
        )
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._list = metrics.rpc(SERVICE, "ListModels", "unary")
        self._get = metrics.rpc(SERVICE, "GetModel", "unary")
        self._labels = metrics.rpc(SERVICE, "ListLabels", "unary")
        self._predict = metrics.rpc(SERVICE, "Predict", "unary")
        self._stream = metrics.rpc(SERVICE, "Stream", "bidi_stream")

    def handler(self) -> grpc.GenericRpcHandler:
        """The service's methods, as the generated code would add them to a server; but for Stream's
        responses, which come serialized."""
        unary: dict[str, tuple[Any, type[Message]]] = {
            "ListModels": (self.ListModels, pb.ListModelsRequest),
            "GetModel": (self.GetModel, pb.GetModelRequest),
            "ListLabels": (self.ListLabels, pb.ListLabelsRequest),
            "Predict": (self.Predict, pb.PredictRequest),
        }
        counted = {
            "ListModels": self._list,
            "GetModel": self._get,
            "ListLabels": self._labels,
            "Predict": self._predict,
        }
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(
                _parsed(method, request, counted[name]),
                response_serializer=methodcaller("SerializeToString"),
            )
            for name, (method, request) in unary.items()
        }
        handlers["Stream"] = grpc.stream_stream_rpc_method_handler(
            self.Stream, request_deserializer=pb.StreamRequest.FromString
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def finish(self) -> None:
        """Has every stream end with its last session, once admission is closed, and waits until
        all that hold sessions have told their clients."""
        for stream in self._streams:
            stream.notify()
        await self._idle.wait()

    async def cleaned_up(self) -> None:
        """Returns when what streams that are gone had opened has ended."""
        await self._turns.finished()

    def dismiss(self, model: ServedModel) -> None:
        """Has every stream on a model that was unloaded take no more sessions, and end with its
        last."""
        for stream in self._streams:
            stream.dismiss(model)

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> Any:
        async def answer() -> pb.ListModelsResponse:
            models = list(self._catalog.current())
            return pb.ListModelsResponse(models=self._describe(models))

        return await _answer(self._list, context, answer)

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> Any:
        async def answer() -> pb.GetModelResponse:
            caller = identity.of(context)
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

        return await _answer(self._get, context, answer)

    async def ListLabels(self, request: pb.ListLabelsRequest, context: Any) -> Any:
        async def answer() -> pb.ListLabelsResponse:
            model = self._catalog.get(request.model, request.version)
            most = self._config.max_message_bytes
            return descriptions.labels(model.file, request.output, request.start, most)

        return await _answer(self._labels, context, answer)

    async def Predict(self, request: pb.PredictRequest, context: Any) -> Any:
        async def answer() -> pb.PredictResponse:
            model = self._catalog.get(request.model, request.version)
            with self._under_way():
                return await predict(
                    model,
                    request,
                    turns=self._turns,
                    max_message_bytes=self._config.max_message_bytes,
                )

        return await _answer(self._predict, context, answer)

    async def Stream(  # type: ignore[override]  # the stubs know no coroutine that writes
        self, _: AsyncIterator[pb.StreamRequest], context: Any
    ) -> None:
        async def serve() -> None:
            try:
                await context.send_initial_metadata(((_SERVER, self._name),))
            except grpc.aio.InternalError as error:
                raise _Gone from error
            requests = _Requests(context.read, self._stream)
            first = await anext(requests, None)
            if first is None:
                return
            if not first.model:
                raise InvalidRequest("the first frame names no `model`")
            stream = StreamRpc(
                model=self._catalog.get(first.model, first.version),
                admission=self._admission,
                identity=identity.of(context),
                keeper=self._keeper,
                turns=self._turns,
                slow_readers=self._slow_readers,
                window=self._config.window,
                max_message_bytes=self._config.max_message_bytes,
                max_age=self._age(),
                grace=self._config.grace_period,
            )

            async def write(response: bytes) -> None:
                self._stream.sent.inc()
                try:
                    await context.write(response)
                except grpc.aio.InternalError as error:
                    raise _Gone from error

            self._streams.add(stream)
            try:
                with self._under_way():
                    await stream.run(first, requests, write)
            finally:
                self._streams.discard(stream)

        await _guard(self._stream, context, serve)

    def _describe(self, models: Sequence[ServedModel]) -> list[pb.Model]:
        return descriptions.describe(models, self._config.max_message_bytes)

    def _age(self) -> float:
        """Seconds; not the same for all, so that not all of them leave at once."""
        most = self._config.max_connection_age
        return most * random.uniform(0.9, 1.1) if most else inf

    async def _checkpoint(self, request: pb.GetModelRequest, identity: str) -> bytes | None:
        """Of a named session, if there is any. Raises a `ServerError`."""
        if self._keeper is None:
            raise InvalidRequest(
                f"session {request.session!r} has a name; this server has no state store"
            )
        return await self._keeper.peek(naming.key(request.name, identity, request.session))

    def _model_of(self, ticket: bytes, name: str, identity: str) -> ServedModel:
        """The version of a model that a ticket is of. Raises `TicketRejected`."""
        model = self._catalog.whichever(name)
        try:
            origin = model.tickets.origin(ticket, identity)
            return self._catalog.fingerprinted(name, origin.fingerprint)
        except TicketRejected as error:
            model.metrics.ticket_rejected(error.reason)
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


class _Gone(Exception):
    """The RPC that was to be written to has ended."""


class _Requests:
    """The frames of an RPC. No generator: with one inside another, as gRPC's own would be, each
    frame would cost more."""

    def __init__(self, read: Callable[[], Awaitable[Any]], metrics: RpcMetrics) -> None:
        self._read = read
        self._metrics = metrics

    def __aiter__(self) -> "_Requests":
        return self

    async def __anext__(self) -> pb.StreamRequest:
        try:
            request = await self._read()
        except DecodeError:
            raise InvalidRequest("a frame is no elman.v1.StreamRequest") from None
        if request is grpc.aio.EOF:
            raise StopAsyncIteration
        self._metrics.received.inc()
        frame: pb.StreamRequest = request
        return frame


def _parsed(
    method: Callable[[Any, Any], Awaitable[Any]], request: type[Message], metrics: RpcMetrics
) -> Callable[[bytes, Any], Awaitable[Any]]:
    """A unary method that takes its request as it came: gRPC would answer with a bug's traceback
    where it is none, and nobody would count it."""

    async def call(data: bytes, context: Any) -> Any:
        try:
            message = request.FromString(data)
        except DecodeError:

            async def refuse() -> None:
                raise InvalidRequest(f"the request is no {request.DESCRIPTOR.full_name}")

            return await _answer(metrics, context, refuse)
        return await method(message, context)

    return call


async def _answer(
    metrics: RpcMetrics, context: Any, call: Callable[[], Coroutine[None, None, _Answer]]
) -> _Answer:
    """A unary RPC."""
    metrics.received.inc()
    answer = await _guard(metrics, context, call)
    metrics.sent.inc()
    return answer


async def _guard(
    metrics: RpcMetrics, context: Any, call: Callable[[], Coroutine[None, None, _Answer]]
) -> _Answer:
    """Runs an RPC, counts it, and ends it with the status of what it raises."""
    metrics.started.inc()
    code = grpc.StatusCode.CANCELLED
    try:
        result = await call()
        code = grpc.StatusCode.OK
        return result
    except _Gone:
        raise asyncio.CancelledError from None
    except ServerError as error:
        code = status.code(error)
        await status.abort(context, error)
    except Exception:
        code = grpc.StatusCode.INTERNAL
        structlog.get_logger("elman.rpc").exception("bug in a handler")
        await context.abort(code, "internal error; the server's log has more")
        raise
    finally:
        metrics.handled(code.name)
