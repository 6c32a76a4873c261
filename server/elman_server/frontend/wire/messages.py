"""Conversion between the server's dataclasses and protobuf messages."""

from collections.abc import Iterable, Iterator
from math import inf
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from elman.v1 import inference_pb2 as pb
from elman_server.engine.outboxes.mail import Opened, SnapshotTaken
from elman_server.engine.sessions.snapshot import NEVER, Cadence
from elman_server.errors import InvalidRequest
from elman_server.frontend.connection.frame import Frame, Open, Push
from elman_server.model.contexts import GivenContext
from elman_server.model.modelfile import ModelFile
from elman_server.model.repository import ModelSource
from elman_server.model.selection import EncodedValues, Form, OutputRequest
from elman_server.model.spec import ContextSpec, InputKind, InputSpec, OutputKind, OutputSpec

_INPUT_KINDS = {
    InputKind.TEXT: pb.INPUT_KIND_TEXT,
    InputKind.TOKENS: pb.INPUT_KIND_TOKENS,
    InputKind.FEATURES: pb.INPUT_KIND_FEATURES,
}
_OUTPUT_KINDS = {
    OutputKind.VALUES: pb.OUTPUT_KIND_VALUES,
    OutputKind.LOGITS: pb.OUTPUT_KIND_LOGITS,
    OutputKind.PROBABILITIES: pb.OUTPUT_KIND_PROBABILITIES,
}
_FORMS = {
    pb.FORM_RAW: Form.RAW,
    pb.FORM_PROBABILITIES: Form.PROBABILITIES,
    pb.FORM_TOP: Form.TOP,
}

_Request = TypeVar("_Request", bound=Message)


def parse(kind: type[_Request], data: bytes, name: str = "the request") -> _Request:
    """Parses a request, called `name` in errors. Raises `InvalidRequest`."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidRequest(f"{name} is no {kind.DESCRIPTOR.full_name}") from None


def model(source: ModelSource, file: ModelFile) -> pb.Model:
    spec = file.spec
    return pb.Model(
        name=source.name,
        version=source.version,
        fingerprint=file.fingerprint,
        description=spec.description,
        input=_input(spec.input),
        outputs=map(_output, spec.outputs),
        state_bytes=spec.state_bytes,
        contexts=map(_context, spec.contexts),
    )


def given_contexts(messages: Iterable[pb.ContextValue]) -> Iterator[GivenContext]:
    return (GivenContext(name=message.name, raw=message.raw) for message in messages)


def output_requests(messages: Iterable[pb.OutputRequest]) -> list[OutputRequest]:
    """Converts output requests. Raises `InvalidRequest` for an unknown form."""
    requests = []
    for message in messages:
        if message.form not in _FORMS:
            raise InvalidRequest(f"form {message.form} is unknown; allowed are 0 to {max(_FORMS)}")
        requests.append(OutputRequest(name=message.name, form=_FORMS[message.form], k=message.k))
    return requests


def frame(request: pb.StreamRequest) -> Frame:
    push = None
    if request.HasField("push"):
        message = request.push
        kind = message.WhichOneof("elements")
        push = Push(
            numbers=message.sessions,
            counts=message.counts,
            elements=None if kind is None else message.text if kind == "text" else message.raw,
        )
    others = len(request.opens) + len(request.closes) + len(request.tickets)
    if not others:
        return Frame(push=push)
    return Frame(
        opens=map(_open, request.opens),
        push=push,
        tickets=request.tickets,
        closes=request.closes,
        others=others,
    )


def opened(event: Opened, window: int) -> pb.Opened:
    every = event.cadence or Cadence()
    return pb.Opened(
        session=event.number,
        id=event.id,
        window=window,
        position=event.first_position,
        ticket_every_elements=0 if every.elements == NEVER else every.elements,
        ticket_every_seconds=0 if every.seconds == inf else every.seconds,
    )


def ticket(event: SnapshotTaken, sealed: bytes) -> pb.Ticket:
    return pb.Ticket(session=event.number, position=event.snapshot.position, ticket=sealed)


def values(columns: Iterable[EncodedValues]) -> list[pb.Values]:
    return [
        pb.Values(values=bytes(column.values), indices=bytes(column.indices)) for column in columns
    ]


def _open(message: pb.Open) -> Open:
    invalid = ""
    outputs: tuple[OutputRequest, ...] = ()
    try:
        outputs = tuple(output_requests(message.outputs))
    except InvalidRequest as error:
        invalid = str(error)
    return Open(
        number=message.session,
        outputs=outputs,
        contexts=tuple(given_contexts(message.contexts)),
        ticket=message.ticket,
        ticket_every_elements=message.ticket_every_elements,
        ticket_every_seconds=message.ticket_every_seconds,
        fingerprint=message.fingerprint,
        parkable=message.parkable,
        name=message.name,
        restart=message.restart,
        replay=message.replay if message.HasField("replay") else None,
        invalid=invalid,
    )


def _input(spec: InputSpec) -> pb.Input:
    message = pb.Input(
        kind=_INPUT_KINDS[spec.kind],
        shape=spec.shape,
        size=spec.size,
        vocabulary=spec.vocabulary,
        accepts_unknown=spec.unknown is not None,
    )
    if spec.kind is not InputKind.TEXT:
        message.data_type = _data_type(spec.dtype)
    return message


def _output(spec: OutputSpec) -> pb.Output:
    return pb.Output(
        name=spec.name,
        kind=_OUTPUT_KINDS[spec.kind],
        data_type=_data_type(spec.dtype),
        shape=spec.shape,
        labels=spec.labels,
    )


def _context(spec: ContextSpec) -> pb.Context:
    return pb.Context(name=spec.name, data_type=_data_type(spec.dtype), shape=spec.shape)


def _data_type(dtype: str) -> pb.DataType.ValueType:
    return pb.DataType.Value(f"DATA_TYPE_{dtype.upper()}")
