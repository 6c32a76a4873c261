"""A small server of the wire, for tests of its clients: real sockets, no ONNX.

Its misbehaviour is scripted by its fields and methods.
"""

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from types import TracebackType
from typing import Any, Self

import grpc

from elman.v1 import inference_pb2 as pb
from elman.v1 import inference_pb2_grpc as pb_grpc
from tests.client.fake_models import MODELS, REFUSED, FakeSession, unpack


class FakeServer(pb_grpc.InferenceServicer):
    """Serves `MODELS` on a free port of the loopback while it is entered."""

    def __init__(self) -> None:
        self.models = deepcopy(MODELS)
        self.window = 8
        self.frames: list[pb.StreamRequest] = []
        """Every frame of every Stream RPC, in order."""
        self.calls: list[str] = []
        """The name of every call, in order."""
        self.metadata: list[tuple[str, str | bytes]] = []
        self.refusal: pb.Closed | None = None
        """Sent, with the session's number, in place of Opened."""
        self.failures: list[tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]] = []
        """Statuses (and trailers) with which the next unary calls fail."""
        self.stream_failures: list[tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]] = []
        """The same for the next Stream RPCs."""
        self.max_answer = 1 << 30
        """Elements in a Predict beyond which it says that the answer would be too large."""
        self.predicting = threading.Event()
        """A Predict has come."""
        self._holding = False
        self._released = threading.Event()
        self._released.set()
        self._models_released = threading.Event()
        self._models_released.set()
        self._rpcs: list[queue.SimpleQueue[Any]] = []
        self._server = grpc.server(
            ThreadPoolExecutor(16),
            # As Elman's own, for tests that take long on a busy machine.
            options=[("grpc.http2.min_ping_interval_without_data_ms", 4000)],
        )
        pb_grpc.add_InferenceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._released.set()
        self._models_released.set()
        for events in self._rpcs:
            events.put(None)
        self._server.stop(0).wait()

    # -------------------------------------------------------------------------------------------
    # Scripting

    def hold(self) -> None:
        """Answers no push and no Predict until `release`."""
        self._holding = True
        self._released.clear()

    def hold_models(self) -> None:
        """Answers no GetModel until `release`."""
        self._models_released.clear()

    def release(self) -> None:
        self._holding = False
        self._models_released.set()
        self._released.set()
        self._tell(pb.StreamRequest())

    def send(self, response: pb.StreamResponse) -> None:
        """Says this on every RPC, whatever the protocol."""
        self._tell(response)

    def break_rpcs(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """Ends every Stream RPC."""
        self._tell(code)

    def pushed(self) -> str:
        """All text that was pushed, in order."""
        return "".join(frame.push.text for frame in self.frames)

    def _tell(self, event: object) -> None:
        for events in self._rpcs:
            events.put(event)

    # -------------------------------------------------------------------------------------------
    # The service

    def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        self._begin("ListModels", context)
        return pb.ListModelsResponse(models=self.models.values())

    def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        self._begin("GetModel", context)
        self._models_released.wait()
        return pb.GetModelResponse(model=self._model(request.name, request.version, context))

    def ListLabels(self, request: pb.ListLabelsRequest, context: Any) -> pb.ListLabelsResponse:
        self._begin("ListLabels", context)
        model = self._model(request.model, request.version, context)
        labels = {output.name: output.labels for output in model.outputs}
        found = labels[request.output] if request.output else model.input.vocabulary
        return pb.ListLabelsResponse(labels=found[request.start :], total=len(found))

    def Predict(self, request: pb.PredictRequest, context: Any) -> pb.PredictResponse:
        self._begin("Predict", context)
        self.predicting.set()
        self._released.wait()
        model = self._model(request.model, request.version, context)
        session = FakeSession(model, request.outputs, request.contexts)
        elements = request.text if request.WhichOneof("elements") == "text" else request.raw
        count, outputs = session.run(elements) if elements else (0, [pb.Values()] * 9)
        if count > self.max_answer:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the answer would be too large")
        if isinstance(elements, str) and REFUSED in elements:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"elements hold {REFUSED!r}")
        return pb.PredictResponse(
            version=model.version, count=count, outputs=outputs[: len(session.outputs)]
        )

    def Stream(
        self, requests: Iterator[pb.StreamRequest], context: Any
    ) -> Iterator[pb.StreamResponse]:
        self._begin("Stream", context)
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._rpcs.append(events)
        threading.Thread(target=self._read, args=(requests, events), daemon=True).start()
        rpc: FakeRpc | None = None
        while (event := events.get()) is not None:
            match event:
                case pb.StreamRequest():
                    if rpc is None:
                        model = self._model(event.model, event.version, context)
                        rpc = FakeRpc(model, self.window, self.refusal)
                    yield from rpc.answer(event, holding=self._holding)
                case pb.StreamResponse():
                    yield event
                case grpc.StatusCode():
                    context.abort(event, "as scripted")
        self._rpcs.remove(events)

    def _read(self, requests: Iterator[pb.StreamRequest], events: queue.SimpleQueue[Any]) -> None:
        try:
            for request in requests:
                self.frames.append(request)
                events.put(request)
        except grpc.RpcError:
            pass
        events.put(None)

    def _begin(self, call: str, context: Any) -> None:
        self.calls.append(call)
        self.metadata = list(context.invocation_metadata())
        failures = self.stream_failures if call == "Stream" else self.failures
        if failures:
            code, message, trailers = failures.pop(0)
            context.set_trailing_metadata(trailers)
            context.abort(code, message)

    def _model(self, name: str, version: str, context: Any) -> pb.Model:
        model = self.models.get(name)
        if model is None or version not in ("", model.version):
            context.abort(grpc.StatusCode.NOT_FOUND, f"model {name!r} is unknown")
        assert model is not None
        return model


class FakeRpc:
    """The sessions of one Stream RPC."""

    def __init__(self, model: pb.Model, window: int, refusal: pb.Closed | None) -> None:
        self._model = model
        self._window = window
        self._refusal = refusal
        self._sessions: dict[int, FakeSession] = {}
        self._held: list[pb.StreamRequest] = []

    def answer(self, request: pb.StreamRequest, *, holding: bool) -> Iterator[pb.StreamResponse]:
        for opened in request.opens:
            if self._refusal is not None:
                closed = pb.Closed()
                closed.CopyFrom(self._refusal)
                closed.session = opened.session
                yield pb.StreamResponse(closed=[closed])
                continue
            self._sessions[opened.session] = FakeSession(
                self._model, opened.outputs, opened.contexts
            )
            yield pb.StreamResponse(
                opened=[
                    pb.Opened(session=opened.session, id=f"s{opened.session}", window=self._window)
                ]
            )
        self._held.append(request)
        if not holding:
            for held in self._held:
                yield self._finish(held)
            self._held.clear()

    def _finish(self, request: pb.StreamRequest) -> pb.StreamResponse:
        response = pb.StreamResponse()
        groups: dict[bytes, pb.Predictions] = {}
        for number, elements in unpack(self._model, request.push):
            session = self._sessions.get(number)
            if session is None:
                continue
            if isinstance(elements, str) and REFUSED in elements:
                del self._sessions[number]
                response.closed.add(
                    session=number,
                    code=grpc.StatusCode.INVALID_ARGUMENT.value[0],
                    reason=pb.CLOSE_REASON_INVALID_ELEMENT,
                    message=f"elements hold {REFUSED!r}",
                    position=session.position,
                )
                continue
            first = session.position
            count, outputs = session.run(elements)
            group = groups.get(session.key)
            if group is None:
                group = groups[session.key] = response.predictions.add()
                group.outputs.extend(pb.Values() for _ in outputs)
            group.sessions.append(number)
            group.counts.append(count)
            group.first_positions.append(first)
            for packed, values in zip(group.outputs, outputs, strict=True):
                packed.values += values.values
                packed.indices += values.indices
        for group in groups.values():
            if set(group.counts) == {1}:
                group.ClearField("counts")
        for number in request.closes:
            session = self._sessions.pop(number, None)
            if session is not None:
                response.closed.add(
                    session=number, reason=pb.CLOSE_REASON_FINISHED, position=session.position
                )
        return response
