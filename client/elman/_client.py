"""A connection to an Elman server, for threads."""

import threading
from collections.abc import Mapping, Sequence
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from elman._deadline import Deadline
from elman._model import Model
from elman._models import KnownModel, ModelCache, model_request, read_model
from elman._options import Metadata, Options, check_seconds, rpc_timeout
from elman._outputs import OutputChoice
from elman._pipeline import Pipeline
from elman._predict import PredictCall
from elman._prediction import Predictions
from elman._rpc import Line, Rpc
from elman._session_options import SessionOptions, session_options
from elman._status import is_too_large, rpc_error
from elman._stream import Stream
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
) -> "Client":
    """Connects to the server at `target`, such as "localhost:50051".

    `timeout`: seconds that any call waits for the server; inf waits for ever. Waiting for something
        else (for elements that were not pushed yet) does not count.
    `connect_timeout`: seconds in which the server must be reached.
    `max_message_bytes`: the largest message sent; larger work is split.
    `keepalive`: seconds of silence after which the connection is checked; inf never does. A server
        that was not told to allow it may refuse checks more frequent than every 300 s.
    `credentials`: for TLS; None connects in the clear.
    `metadata`: sent with every call, for a proxy's authentication say.

    Raises `Unavailable` if the server cannot be reached.
    """
    options = Options(
        target=target,
        timeout=timeout,
        connect_timeout=connect_timeout,
        max_message_bytes=max_message_bytes,
        keepalive=keepalive,
        credentials=credentials,
        metadata=metadata,
    )
    client = Client(options)
    try:
        client.wait_until_ready()
    except BaseException:
        client.close(grace=0)
        raise
    return client


class Client:
    """Made by `connect`. Any number of threads may use it at once."""

    def __init__(self, options: Options) -> None:
        self._options = options
        arguments = options.channel_arguments
        if options.credentials is None:
            self._channel = grpc.insecure_channel(options.target, arguments)
        else:
            self._channel = grpc.secure_channel(options.target, options.credentials, arguments)
        self._stub = InferenceStub(self._channel)
        self._cache = ModelCache()
        self._rpcs: dict[tuple[str, str], Rpc] = {}
        self._lock = threading.Lock()
        self._closed = False

    def wait_until_ready(self) -> None:
        """Raises `Unavailable` if there is no connection within the connect timeout."""
        ready = grpc.channel_ready_future(self._channel)
        try:
            ready.result(rpc_timeout(self._options.connect_timeout))
        except grpc.FutureTimeoutError:
            raise Unavailable(self._options.unreachable(self._why())) from None
        finally:
            ready.cancel()

    def models(self) -> list[Model]:
        """What the server is ready to serve, by name and then by version, newest last."""
        response = self._ask(self._stub.ListModels, pb.ListModelsRequest())
        return [read_model(model) for model in response.models]

    def model(self, name: str, version: str | int | None = None) -> Model:
        """One model; the newest version unless one is named. Raises `ModelNotFound`."""
        request = model_request(name, version)
        return self._cache.put(request, self._ask(self._stub.GetModel, request)).model

    def stream(
        self,
        model: str,
        *,
        version: str | int | None = None,
        context: Mapping[str, Any] | None = None,
        outputs: OutputChoice | Sequence[OutputChoice] | None = None,
        window: int | None = None,
        timeout: float | None = None,
    ) -> Stream:
        """Opens a session of a model, from its initial state.

        `context`: an array for each name in `model.contexts`, where there are any.
        `outputs`: names, or `Raw`, `Probabilities` or `Top`; None is every output, raw.
        `window`: how many elements may be unanswered, if fewer than the server allows.
        `timeout`: instead of the client's, for the stream's calls.

        Raises `ModelNotFound`, `InvalidRequest`, or `ServerOverloaded` with `retry_after`.
        """
        known = self._known(model, version)
        options = session_options(
            known.model,
            context=context,
            outputs=outputs,
            window=window,
            max_message_bytes=self._options.max_message_bytes,
        )
        seconds = self._seconds(timeout)
        line = self._open(known, options, Deadline(seconds))
        return Stream(line, known.model, known.codec, seconds)

    def predict(
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

        One unary call if the sequence and its predictions fit into a message, a stream otherwise.
        `timeout`: seconds for all of it, instead of the client's. Raises what `stream` raises, and
        `InvalidElement`.
        """
        known = self._known(model, version)
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
                    self._call(self._stub.Predict, call.request(), deadline.remaining())
                )
            except grpc.RpcError as error:
                if not is_too_large(error):
                    raise rpc_error(error) from None
        line = self._open(known, options, deadline)
        try:
            pipeline = Pipeline(line.session, call.payload)
            return call.gather(line.run(pipeline.rest(), deadline))
        finally:
            line.close()

    def close(self, grace: float = 5.0) -> None:
        """Closes every stream, lets what was pushed finish for `grace` seconds, and disconnects.

        Whoever still waits for a stream of this client then gets `ClientClosed`.
        """
        with self._lock:
            self._closed = True
            rpcs = list(self._rpcs.values())
        deadline = monotonic() + grace
        try:
            for rpc in rpcs:
                rpc.close_sessions()
            for rpc in rpcs:
                rpc.join(max(0, deadline - monotonic()))
        finally:
            for rpc in rpcs:
                rpc.cancel(ClientClosed("the client was closed"))
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.close(grace=0)

    def __repr__(self) -> str:
        return f"<Client of {self._options.target}>"

    def _seconds(self, timeout: float | None) -> float:
        return self._options.timeout if timeout is None else check_seconds("timeout", timeout)

    def _call(
        self, method: "grpc.UnaryUnaryMultiCallable[Q, R]", request: Q, seconds: float | None
    ) -> R:
        self._check()
        try:
            return method(request, timeout=seconds, metadata=self._options.metadata)
        except grpc.RpcError:
            self._check()
            raise

    def _ask(self, method: "grpc.UnaryUnaryMultiCallable[Q, R]", request: Q) -> R:
        try:
            return self._call(method, request, rpc_timeout(self._options.timeout))
        except grpc.RpcError as error:
            raise rpc_error(error) from None

    def _known(self, name: str, version: str | int | None) -> KnownModel:
        request = model_request(name, version)
        known = self._cache.get(request)
        return known or self._cache.put(request, self._ask(self._stub.GetModel, request))

    def _open(self, known: KnownModel, options: SessionOptions, deadline: Deadline) -> Line:
        """A session that the server has opened, on the model's RPC or on a new one."""
        key = (known.model.name, known.model.version)
        with self._lock:
            self._check()
            rpc = self._rpcs.get(key)
            line = rpc.open(options) if rpc else None
            if line is None:
                rpc = self._rpcs[key] = Rpc(
                    lambda frames: self._stub.Stream(frames, metadata=self._options.metadata),
                    known,
                    max_frame_bytes=self._options.max_frame_bytes,
                    broken=lambda: self._cache.forget(known.model.name),
                )
                line = rpc.open(options)
                assert line is not None, "a new RPC refused a session"
        try:
            line.run(line.session.opening(), deadline)
        except BaseException:
            line.close()
            raise
        return line

    def _check(self) -> None:
        if self._closed:
            raise ClientClosed("the client was closed")

    def _why(self) -> str:
        """What gRPC says about the connection. Any method does: it fails without being sent."""
        try:
            probe: grpc.UnaryUnaryMultiCallable[bytes, bytes]
            probe = self._channel.unary_unary("/grpc.health.v1.Health/Check")
            probe(b"", timeout=0.1)
        except grpc.RpcError as error:
            return str(rpc_error(error))
        return "it answers now"
