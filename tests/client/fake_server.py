"""A small server of the wire, for tests of its clients: real sockets, no ONNX.

Its models are running sums weighted by position, so that any element that is lost, doubled, swapped
or sent to another session shows in every later prediction. Its misbehaviour is scripted by fields.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np

from elman.v1 import inference_pb2 as pb
from elman.v1 import inference_pb2_grpc as pb_grpc

LETTERS = "abcdefghijklmnopqrstuvwxyz .!"
REFUSED = "!"
"""A letter that is in the vocabulary, and that this server refuses all the same."""
PEAK = 5.0
"""The logit of the letter that follows in `LETTERS`; `REFUSED` never does, the others' is 0."""

_TOTAL = pb.Output(name="total", kind=pb.OUTPUT_KIND_VALUES, data_type=pb.DATA_TYPE_INT64)
_NEXT = pb.Output(
    name="next",
    kind=pb.OUTPUT_KIND_LOGITS,
    data_type=pb.DATA_TYPE_FLOAT32,
    shape=[len(LETTERS)],
    labels=LETTERS,
)
_UNLABELLED = pb.Output(
    name="next",
    kind=pb.OUTPUT_KIND_LOGITS,
    data_type=pb.DATA_TYPE_FLOAT32,
    shape=[len(LETTERS)],
)
_SUMS = pb.Output(
    name="sums", kind=pb.OUTPUT_KIND_VALUES, data_type=pb.DATA_TYPE_FLOAT32, shape=[2]
)
_LEVEL = pb.Output(name="level", kind=pb.OUTPUT_KIND_VALUES, data_type=pb.DATA_TYPE_FLOAT64)

MODELS = {
    model.name: model
    for model in (
        pb.Model(
            name="letters",
            version="2",
            fingerprint="f00d",
            description="sums of letters",
            input=pb.Input(kind=pb.INPUT_KIND_TEXT, size=len(LETTERS), vocabulary=LETTERS),
            outputs=[_TOTAL, _NEXT],
            state_bytes=8,
        ),
        pb.Model(
            name="tokens",
            version="1",
            input=pb.Input(
                kind=pb.INPUT_KIND_TOKENS,
                data_type=pb.DATA_TYPE_INT32,
                size=len(LETTERS),
                vocabulary=[f"token{i}" for i in range(len(LETTERS))],
            ),
            outputs=[_TOTAL, _UNLABELLED],
        ),
        pb.Model(
            name="pairs",
            version="1",
            input=pb.Input(kind=pb.INPUT_KIND_FEATURES, data_type=pb.DATA_TYPE_FLOAT32, shape=[2]),
            outputs=[_SUMS],
        ),
        pb.Model(
            name="scalars",
            version="1",
            input=pb.Input(kind=pb.INPUT_KIND_FEATURES, data_type=pb.DATA_TYPE_FLOAT64),
            outputs=[_LEVEL],
        ),
    )
}


def letter_totals(text: str) -> list[int]:
    """What `letters` predicts as `total` for each element of `text`."""
    return _totals([LETTERS.index(letter) for letter in text])


def _totals(ids: Sequence[int], position: int = 0, total: int = 0) -> list[int]:
    totals = []
    for i, id in enumerate(ids, position):
        total += (id + 1) * (i + 1)
        totals.append(total)
    return totals


class FakeSession:
    """One session: consumes elements, remembers their sum."""

    def __init__(self, model: pb.Model, outputs: Sequence[pb.OutputRequest]) -> None:
        self.model = model
        self.outputs = list(outputs) or [pb.OutputRequest(name=o.name) for o in model.outputs]
        self.position = 0
        self._total = 0
        self._sums = np.zeros(tuple(model.input.shape))

    @property
    def key(self) -> bytes:
        return b"|".join(output.SerializeToString() for output in self.outputs)

    def run(self, elements: str | bytes) -> tuple[int, list[pb.Values]]:
        """How many elements these are, and the requested outputs for them."""
        arrays: dict[str, np.ndarray]
        if isinstance(elements, bytes) and self.model.input.kind == pb.INPUT_KIND_FEATURES:
            dtype = "<f4" if self.model.input.shape else "<f8"
            given = np.frombuffer(elements, dtype).reshape(-1, *self.model.input.shape)
            sums = self._sums + np.cumsum(given, axis=0)
            count = len(given)
            self._sums = sums[-1]
            arrays = {self.model.outputs[0].name: sums.astype(dtype)}
        else:
            if isinstance(elements, str):
                ids = [LETTERS.index(letter) for letter in elements]
            else:
                ids = np.frombuffer(elements, "<i4").tolist()
            count = len(ids)
            totals = _totals(ids, self.position, self._total)
            self._total = totals[-1]
            logits = np.zeros((count, len(LETTERS)), "<f4")
            logits[:, LETTERS.index(REFUSED)] = -np.inf
            logits[np.arange(count), (np.array(ids) + 1) % (len(LETTERS) - 1)] = PEAK
            arrays = {"total": np.array(totals, "<i8"), "next": logits}
        self.position += count
        return count, [_shape(arrays[output.name], output) for output in self.outputs]


def _shape(array: np.ndarray, request: pb.OutputRequest) -> pb.Values:
    if request.form == pb.FORM_RAW:
        return pb.Values(values=array.tobytes())
    weights = np.exp(array)
    probabilities = (weights / weights.sum(axis=-1, keepdims=True)).astype("<f4")
    if request.form == pb.FORM_PROBABILITIES:
        return pb.Values(values=probabilities.tobytes())
    best = np.argsort(-probabilities, axis=-1, kind="stable")[..., : request.k]
    return pb.Values(
        values=np.take_along_axis(probabilities, best, -1).tobytes(),
        indices=best.astype("<u4").tobytes(),
    )


class FakeServer(pb_grpc.InferenceServicer):
    """Serves `MODELS` on a free port of the loopback while it is entered."""

    def __init__(self) -> None:
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
        self.max_answer = 1 << 30
        """Elements in a Predict beyond which it says that the answer would be too large."""
        self._holding = False
        self._rpcs: list[queue.SimpleQueue[Any]] = []
        self._server = grpc.server(ThreadPoolExecutor(16))
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
        for events in self._rpcs:
            events.put(None)
        self._server.stop(0).wait()

    # -------------------------------------------------------------------------------------------
    # Scripting

    def hold(self) -> None:
        """Answers no push until `release`."""
        self._holding = True

    def release(self) -> None:
        self._holding = False
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
        return pb.ListModelsResponse(models=MODELS.values())

    def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        self._begin("GetModel", context)
        return pb.GetModelResponse(model=self._model(request.name, request.version, context))

    def Predict(self, request: pb.PredictRequest, context: Any) -> pb.PredictResponse:
        self._begin("Predict", context)
        model = self._model(request.model, request.version, context)
        session = FakeSession(model, request.outputs)
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
        if call != "Stream" and self.failures:
            code, message, trailers = self.failures.pop(0)
            context.set_trailing_metadata(trailers)
            context.abort(code, message)

    def _model(self, name: str, version: str, context: Any) -> pb.Model:
        model = MODELS.get(name)
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
            self._sessions[opened.session] = FakeSession(self._model, opened.outputs)
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
        for number, elements in _unpack(self._model, request.push):
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


def _unpack(model: pb.Model, push: pb.Push) -> Iterator[tuple[int, str | bytes]]:
    """Each session's elements."""
    if not push.sessions:
        return
    text = push.WhichOneof("elements") == "text"
    elements: str | bytes = push.text if text else push.raw
    unit = 1
    if not text:
        unit = {"tokens": 4, "pairs": 8, "scalars": 8}[model.name]
    share = len(elements) // unit // len(push.sessions)
    start = 0
    for number, count in zip(
        push.sessions, push.counts or [share] * len(push.sessions), strict=True
    ):
        stop = start + count * unit
        yield number, elements[start:stop]
        start = stop
    assert start == len(elements), "counts and elements differ"
