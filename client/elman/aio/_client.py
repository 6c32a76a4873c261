"""A connection to an Elman server, for asyncio."""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from grpc import aio

from elman._deadline import Deadline
from elman._model import Model
from elman._models import KnownModel, ModelCache, model_request, read_model
from elman._options import Metadata, Options, check_seconds, rpc_timeout
from elman._outputs import OutputChoice
from elman._pipeline import Pipeline
from elman._predict import PredictCall
from elman._prediction import Predictions
from elman._session_options import SessionOptions, session_options
from elman._status import is_too_large, rpc_error
from elman.aio._opening import Opening
from elman.aio._rpc import Line, Rpc
from elman.aio._stream import Stream
from elman.errors import ClientClosed, Unavailable
from elman.v1 import inference_pb2 as pb
from elman.v1.inference_pb2_grpc import InferenceStub

Q = TypeVar("Q")
R = TypeVar("R")


def connect(
    target: str,
    *,
    timeout: float = 30.0,
    connect_timeout: float = 5.0,
    max_message_bytes: int = 4 * 1024 * 1024,
    keepalive: float = 30.0,
    credentials: grpc.ChannelCredentials | None = None,
    metadata: Metadata = (),
) -> Opening["Client"]:
    """Connects to the server at `target`, such as "localhost:50051". As `elman.connect`."""
    options = Options(
        target=target,
        timeout=timeout,
        connect_timeout=connect_timeout,
        max_message_bytes=max_message_bytes,
        keepalive=keepalive,
        credentials=credentials,
        metadata=metadata,
    )
    return Opening(_connect(options))


async def _connect(options: Options) -> "Client":
    client = Client(options)
    try:
        await client.wait_until_ready()
    except BaseException:
        await client.close(grace=0)
        raise
    return client


class Client:
    """Made by `connect`. Any number of tasks may use it at once."""

    def __init__(self, options: Options) -> None:
        self._options = options
        arguments = options.channel_arguments
        if options.credentials is None:
            self._channel = aio.insecure_channel(options.target, arguments)
        else:
            self._channel = aio.secure_channel(options.target, options.credentials, arguments)
        self._stub = InferenceStub(self._channel)
        self._cache = ModelCache()
        self._asking: dict[tuple[str, str], asyncio.Task[KnownModel]] = {}
        self._rpcs: dict[tuple[str, str], Rpc] = {}
        self._closed = False

    async def wait_until_ready(self) -> None:
        """Raises `Unavailable` if there is no connection within the connect timeout."""
        seconds = rpc_timeout(self._options.connect_timeout)
        try:
            await asyncio.wait_for(self._channel.channel_ready(), seconds)
        except TimeoutError:
            raise Unavailable(self._options.unreachable(await self._why())) from None

    async def models(self) -> list[Model]:
        """What the server is ready to serve, by name and then by version, newest last."""
        response = await self._ask(self._stub.ListModels, pb.ListModelsRequest())
        return [read_model(model) for model in response.models]

    async def model(self, name: str, version: str | int | None = None) -> Model:
        """One model; the newest version unless one is named. Raises `ModelNotFound`."""
        return (await self._fetch(model_request(name, version))).model

    def stream(
        self,
        model: str,
        *,
        version: str | int | None = None,
        context: Mapping[str, Any] | None = None,
        outputs: OutputChoice | Sequence[OutputChoice] | None = None,
        window: int | None = None,
        timeout: float | None = None,
    ) -> Opening[Stream]:
        """Opens a session of a model, from its initial state. As `elman.Client.stream`."""
        return Opening(self._stream(model, version, context, outputs, window, timeout))

    async def predict(
        self,
        model: str,
        sequence: Any,
        *,
        version: str | int | None = None,
        context: Mapping[str, Any] | None = None,
        outputs: OutputChoice | Sequence[OutputChoice] | None = None,
        timeout: float | None = None,
    ) -> Predictions:
        """The predictions of a whole sequence, as of a stream that is gone afterwards.

        As `elman.Client.predict`.
        """
        known = await self._known(model, version)
        options = session_options(
            known.model,
            context=context,
            outputs=outputs,
            max_message_bytes=self._options.max_message_bytes,
        )
        call = PredictCall(known, options, sequence)
        deadline = Deadline(self._seconds(timeout))
        if call.fits(self._options.max_message_bytes):
            try:
                return call.read(
                    await self._call(self._stub.Predict, call.request(), deadline.remaining())
                )
            except grpc.RpcError as error:
                if not is_too_large(error):
                    raise rpc_error(error) from None
        line = await self._open(known, options, deadline)
        try:
            pipeline = Pipeline(line.session, call.payload)
            return call.gather(await line.run(pipeline.rest(), deadline))
        finally:
            line.close()

    async def close(self, grace: float = 5.0) -> None:
        """Closes every stream, lets what was pushed finish for `grace` seconds, and disconnects.

        Whoever still waits for a stream of this client then gets `ClientClosed`.
        """
        self._closed = True
        rpcs = list(self._rpcs.values())
        try:
            for rpc in rpcs:
                rpc.close_sessions()
            await asyncio.gather(*(rpc.join(grace) for rpc in rpcs))
        finally:
            for rpc in rpcs:
                await rpc.cancel(ClientClosed("the client was closed"))
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
        else:
            await self.close(grace=0)

    def __repr__(self) -> str:
        return f"<Client of {self._options.target}>"

    def _seconds(self, timeout: float | None) -> float:
        return self._options.timeout if timeout is None else check_seconds("timeout", timeout)

    async def _stream(
        self,
        model: str,
        version: str | int | None,
        context: Mapping[str, Any] | None,
        outputs: OutputChoice | Sequence[OutputChoice] | None,
        window: int | None,
        timeout: float | None,
    ) -> Stream:
        known = await self._known(model, version)
        options = session_options(
            known.model,
            context=context,
            outputs=outputs,
            window=window,
            max_message_bytes=self._options.max_message_bytes,
        )
        seconds = self._seconds(timeout)
        line = await self._open(known, options, Deadline(seconds))
        return Stream(line, known.model, known.codec, seconds)

    async def _call(
        self, method: "aio.UnaryUnaryMultiCallable[Q, R]", request: Q, seconds: float | None
    ) -> R:
        self._check()
        try:
            return await method(request, timeout=seconds, metadata=self._options.metadata)
        except grpc.RpcError:
            self._check()
            raise
        except asyncio.CancelledError:
            # A channel that is closed cancels its calls: that is not a cancelled task.
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                self._check()
            raise

    async def _ask(self, method: "aio.UnaryUnaryMultiCallable[Q, R]", request: Q) -> R:
        try:
            return await self._call(method, request, rpc_timeout(self._options.timeout))
        except grpc.RpcError as error:
            raise rpc_error(error) from None

    async def _known(self, name: str, version: str | int | None) -> KnownModel:
        request = model_request(name, version)
        known = self._cache.get(request)
        if known is not None:
            return known
        # One asks; others that want the same meanwhile wait for its answer.
        key = (request.name, request.version)
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._fetch(request))
            task.add_done_callback(lambda _: self._asking.pop(key))
        return await asyncio.shield(task)

    async def _fetch(self, request: pb.GetModelRequest) -> KnownModel:
        return self._cache.put(request, await self._ask(self._stub.GetModel, request))

    async def _open(self, known: KnownModel, options: SessionOptions, deadline: Deadline) -> Line:
        """A session that the server has opened, on the model's RPC or on a new one."""
        self._check()
        key = (known.model.name, known.model.version)
        rpc = self._rpcs.get(key)
        line = rpc.open(options) if rpc else None
        if line is None:
            rpc = self._rpcs[key] = Rpc(
                lambda: self._stub.Stream(metadata=self._options.metadata),
                known,
                max_frame_bytes=self._options.max_frame_bytes,
                broken=lambda: self._cache.forget(known.model.name),
            )
            line = rpc.open(options)
            assert line is not None, "a new RPC refused a session"
        try:
            await line.run(line.session.opening(), deadline)
        except BaseException:
            line.close()
            raise
        return line

    def _check(self) -> None:
        if self._closed:
            raise ClientClosed("the client was closed")

    async def _why(self) -> str:
        """What gRPC says about the connection. Any method does: it fails without being sent."""
        try:
            probe: aio.UnaryUnaryMultiCallable[bytes, bytes]
            probe = self._channel.unary_unary("/grpc.health.v1.Health/Check")
            await probe(b"", timeout=0.1)
        except grpc.RpcError as error:
            return str(rpc_error(error))
        return "it answers now"
