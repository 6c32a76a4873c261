"""A request to open a session, from the wire to the server's own form."""

from dataclasses import fields

from elman.v1 import inference_pb2 as pb
from elman_server.frontend.connection.frame import Open
from elman_server.frontend.wire import messages
from elman_server.model.contexts import GivenContext
from elman_server.model.selection import Form, OutputRequest

RENAMED = {"session": "number"}
FULL = pb.Open(
    session=7,
    outputs=[pb.OutputRequest(name="next", form=pb.FORM_TOP, k=3)],
    contexts=[pb.ContextValue(name="image", raw=b"abcd")],
    ticket=b"a ticket",
    ticket_every_elements=100,
    ticket_every_seconds=2.5,
    fingerprint="c0ffee",
    parkable=True,
    name="alice",
    restart=True,
    replay=4,
)


def converted(message: pb.Open) -> Open:
    (result,) = messages.frame(pb.StreamRequest(opens=[message])).opens
    return result


def test_an_open_has_the_fields_of_the_wire() -> None:
    wire = [RENAMED.get(field.name, field.name) for field in pb.Open.DESCRIPTOR.fields]
    assert [field.name for field in fields(Open)] == [*wire, "invalid"]


def test_every_field_of_an_open_is_converted() -> None:
    assert [field.name for field, _ in FULL.ListFields()] == list(pb.Open.DESCRIPTOR.fields_by_name)
    assert converted(FULL) == Open(
        number=7,
        outputs=(OutputRequest(name="next", form=Form.TOP, k=3),),
        contexts=(GivenContext(name="image", raw=b"abcd"),),
        ticket=b"a ticket",
        ticket_every_elements=100,
        ticket_every_seconds=2.5,
        fingerprint="c0ffee",
        parkable=True,
        name="alice",
        restart=True,
        replay=4,
    )


def test_an_open_without_optional_fields_has_the_defaults() -> None:
    assert converted(pb.Open(session=7)) == Open(number=7)
    assert converted(pb.Open(session=7, replay=0)) == Open(number=7, replay=0)
