"""One Predict RPC: a session for a single sequence."""

import asyncio
from collections.abc import Callable

from elman.v1 import inference_pb2 as pb
from elman_server.engine.arrays import Elements
from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.sessions.ending import EndReason
from elman_server.engine.sessions.request import OpenRequest
from elman_server.errors import (
    AnswerTooLarge,
    InvalidElement,
    InvalidRequest,
    Overloaded,
    ShuttingDown,
    StepFailed,
)
from elman_server.frontend.turns import Turns
from elman_server.frontend.wire import messages
from elman_server.model.elements import SLICE_ELEMENTS, ElementCodec
from elman_server.model.selection import EncodedValues, Selection
from elman_server.serving.served import ServedModel
from elman_server.telemetry.table import ELEMENT_LATENCY, SESSIONS_REJECTED

_OVERHEAD = 1024
"""Bytes reserved for the rest of a response, besides predictions."""


async def predict(
    model: ServedModel,
    request: pb.PredictRequest,
    *,
    turns: Turns,
    max_message_bytes: int,
    hold: Callable[[int], None] = lambda nbytes: None,
) -> pb.PredictResponse:
    """Serves a Predict RPC. `hold` is called with the size of the answer in bytes, and may raise
    `Overloaded`. Raises a `ServerError`."""
    engine = model.engine
    arrival = engine.now()
    selection = Selection(messages.output_requests(request.outputs), model.file.spec.outputs)
    contexts = model.contexts.decode(messages.given_contexts(request.contexts))
    kind = request.WhichOneof("elements")
    if kind is None:
        raise InvalidRequest("the request has no elements; set `text` or `raw`")
    payload = request.text if kind == "text" else request.raw
    model.codec.check(payload)
    count = model.codec.count(payload)
    size = count * selection.element_nbytes + _OVERHEAD
    if size > max_message_bytes:
        raise AnswerTooLarge(
            f"the predictions of {count} elements take {size} bytes; a message takes "
            f"{max_message_bytes} (max_message_bytes): request fewer outputs, or use Stream"
        )
    try:
        hold(size)
    except Overloaded as error:
        model.metrics.inc(SESSIONS_REJECTED, by=error.reason)
        raise
    decoded = await _decode(model.codec, payload, turns)
    changed = asyncio.Event()
    outbox = Outbox(limit=float("inf"), notify=changed.set)
    session = engine.open(
        OpenRequest(
            number=0, outbox=outbox, selection=selection, elements=count, initial_state=contexts
        )
    )
    parts: list[list[EncodedValues]] = []
    try:
        for elements in decoded:
            engine.push([session], [len(elements)], elements, arrival)
        engine.close(session)
        while True:
            mail = engine.collect(outbox)
            for delivery in mail.deliveries:
                parts.append(selection.encode(delivery.outputs))
                model.metrics.observe(ELEMENT_LATENCY, engine.now() - delivery.times)
            if mail.ended:
                break
            await changed.wait()
            changed.clear()
    finally:
        engine.abort(session)
    ending = session.ended
    if ending is not None and ending.reason is EndReason.STEP_FAILED:
        raise StepFailed(ending.message)
    if session.position != count:
        raise ShuttingDown("the server is stopping")
    return pb.PredictResponse(
        version=model.source.version,
        count=count,
        outputs=messages.values(selection.join(parts)),
    )


async def _decode(codec: ElementCodec, payload: str | bytes, turns: Turns) -> list[Elements]:
    """Decodes all elements in slices, with turns for other work in between. Raises
    `InvalidElement`."""
    count = codec.count(payload)
    parts: list[Elements] = []
    for start in range(0, count, SLICE_ELEMENTS):
        if start:
            await turns.next()
        stop = min(start + SLICE_ELEMENTS, count)
        decoded = codec.decode(codec.part(payload, start, stop))
        if decoded.invalid is not None:
            offset = int(decoded.invalid.argmax())
            raise InvalidElement(
                f"element at position {start + offset}: {codec.explain(decoded, offset)}"
            )
        parts.append(decoded.elements)
    return parts
