"""The `elman.v1.Inference` service."""

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import grpc
import structlog

from elman.v1 import inference_pb2 as pb
from elman.v1 import inference_pb2_grpc as pb_grpc
from elman_server.admission import Admission
from elman_server.config import ServerConfig
from elman_server.errors import InvalidRequest, ServerError
from elman_server.metrics import Metrics, RpcMetrics
from elman_server.served import Catalog
from elman_server.transport import messages, status
from elman_server.transport.predict import predict
from elman_server.transport.stream import StreamRpc

SERVICE = pb.DESCRIPTOR.services_by_name["Inference"].full_name

_Answer = TypeVar("_Answer")


class InferenceServicer(pb_grpc.InferenceServicer):
    def __init__(
        self, *, catalog: Catalog, admission: Admission, config: ServerConfig, metrics: Metrics
    ) -> None:
        self._catalog = catalog
        self._admission = admission
        self._config = config
        self._streams: set[StreamRpc] = set()
        self._list = metrics.rpc(SERVICE, "ListModels", "unary")
        self._get = metrics.rpc(SERVICE, "GetModel", "unary")
        self._predict = metrics.rpc(SERVICE, "Predict", "unary")
        self._stream = metrics.rpc(SERVICE, "Stream", "bidi_stream")

    def notify(self) -> None:
        """Has every stream look again at whether the server is stopping."""
        for stream in self._streams:
            stream.notify()

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> Any:
        async def answer() -> pb.ListModelsResponse:
            return pb.ListModelsResponse(
                models=[messages.model(model.source, model.file) for model in self._catalog]
            )

        return await _answer(self._list, context, answer)

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> Any:
        async def answer() -> pb.GetModelResponse:
            model = self._catalog.get(request.name, request.version)
            return pb.GetModelResponse(model=messages.model(model.source, model.file))

        return await _answer(self._get, context, answer)

    async def Predict(self, request: pb.PredictRequest, context: Any) -> Any:
        async def answer() -> pb.PredictResponse:
            return await predict(
                self._catalog.get(request.model, request.version),
                request,
                max_message_bytes=self._config.max_message_bytes,
            )

        return await _answer(self._predict, context, answer)

    async def Stream(  # type: ignore[override]  # the stubs know no coroutine that writes
        self, request_iterator: AsyncIterator[pb.StreamRequest], context: Any
    ) -> None:
        async def serve() -> None:
            requests = _received(request_iterator, self._stream)
            first = await anext(requests, None)
            if first is None:
                return
            if not first.model:
                raise InvalidRequest("the first frame names no `model`")
            stream = StreamRpc(
                model=self._catalog.get(first.model, first.version),
                admission=self._admission,
                window=self._config.window,
                max_message_bytes=self._config.max_message_bytes,
            )

            async def write(response: pb.StreamResponse) -> None:
                self._stream.sent.inc()
                await context.write(response)

            self._streams.add(stream)
            try:
                await stream.run(first, requests, write)
            finally:
                self._streams.discard(stream)

        await _guard(self._stream, context, serve)


async def _received(
    requests: AsyncIterator[pb.StreamRequest], metrics: RpcMetrics
) -> AsyncIterator[pb.StreamRequest]:
    async for request in requests:
        metrics.received.inc()
        yield request


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
