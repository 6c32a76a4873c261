"""A connection by itself: frames in, events out, without an event loop, protobuf or sockets."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from elman_server.durable.tickets.content import Origin
from elman_server.durable.tickets.keyring import Keyring
from elman_server.durable.tickets.keys import new_key, parse_key
from elman_server.durable.tickets.tickets import Tickets
from elman_server.engine.admission import Admission, Waiting
from elman_server.engine.engine import Engine, EngineSettings
from elman_server.engine.jobs.estimates import Estimates
from elman_server.engine.limits import Chunking, StepLimits
from elman_server.engine.outboxes.mail import Mail
from elman_server.engine.scheduler import Scheduler
from elman_server.engine.sessions.ending import EndReason
from elman_server.engine.sessions.snapshot import Cadence
from elman_server.errors import InvalidRequest, ModelUnavailable, Overloaded
from elman_server.frontend.caller import Caller
from elman_server.frontend.connection.backlog import ConnectionLimits
from elman_server.frontend.connection.connection import Connection, Refusal
from elman_server.frontend.connection.frame import Frame, Open, Push
from elman_server.frontend.connection.naming import Naming
from elman_server.frontend.connection.opening import Opener
from elman_server.frontend.connection.ticketing import Ticketing
from elman_server.model.contexts import ContextCodec, GivenContext
from elman_server.model.elements import ElementCodec
from elman_server.model.selection import Form, OutputRequest
from elman_server.model.spec import (
    InputKind,
    InputSpec,
    ModelSpec,
    OutputKind,
    OutputSpec,
    StateSpec,
)
from elman_server.serving.served import ServedModel
from tests.server.fakes import ArithmeticRunner, Recorder, predicted

SPEC = ModelSpec(
    input=InputSpec(name="element", kind=InputKind.TOKENS, dtype="int64", size=100),
    outputs=(OutputSpec(name="sum", kind=OutputKind.VALUES, dtype="int64", shape=()),),
    states=(
        StateSpec(name="sum", input="state", output="next", dtype="int64", shape=(), batch_axis=0),
    ),
    time_axis=True,
)
WINDOW = 8


@dataclass
class Turns:
    """An event loop whose turns the test takes."""

    _due: list[Callable[[], None]] = field(default_factory=list)

    def call_soon(self, act: Callable[[], None]) -> None:
        self._due.append(act)

    def take(self) -> None:
        while self._due:
            self._due.pop(0)()


class World:
    """A connection to a model that sums."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.refused_opens: list[Overloaded] = []
        self.admission = Admission(
            max_sessions=3, max_pending_elements=100, max_context_bytes=10**6, retry_after=1.0
        )
        engine = Engine(
            settings=EngineSettings(name="sums", element_nbytes=8),
            scheduler=Scheduler(
                StepLimits(
                    max_batch_size=4,
                    max_step_elements=1000,
                    max_chunk=4,
                    chunking=Chunking.RAGGED,
                    max_init_batch_size=4,
                )
            ),
            runner=ArithmeticRunner(),
            estimates=Estimates(
                step_seconds=lambda rows, chunk: 0.0, init_seconds=lambda rows: 0.0
            ),
            admission=self.admission,
            observer=Recorder(),
        )
        engine._step_loop._loop = self.turns  # type: ignore[assignment]
        self.admission.watch(
            Waiting(
                elements=lambda: engine.backlog,
                element_nbytes=8,
                context_nbytes=lambda: engine.context_nbytes,
            )
        )
        metrics: Any = SimpleNamespace(inc=lambda row, amount=1, by="": None)
        source: Any = SimpleNamespace(name="sums", version="1")
        file: Any = SimpleNamespace(spec=SPEC)
        self.model = ServedModel(
            source=source,
            file=file,
            codec=ElementCodec(SPEC.input),
            contexts=ContextCodec(()),
            tickets=Tickets(
                Origin(model="sums", version="1", fingerprint="f" * 64),
                SPEC,
                keyring=Keyring([parse_key(new_key())]),
                lifetime=60.0,
                least=Cadence(elements=1, seconds=0.0),
            ),
            engine=engine,
            metrics=metrics,
            unwatch=lambda: None,
        )
        ticketing = Ticketing(self.model, Caller())
        self.notified = 0
        self.connection = Connection(
            model=self.model,
            admission=self.admission,
            opener=Opener(
                model=self.model,
                ticketing=ticketing,
                naming=Naming(self.model, Caller(), ticketing, available=False),
                admit=self._admit,
                max_message_bytes=2**20,
            ),
            named_outbox=pytest.fail,
            lookup=lambda session, named: pytest.fail("no session has a name"),
            limits=ConnectionLimits(window=WINDOW, nbytes=2**18),
            notify=self._notify,
        )

    def _admit(self) -> None:
        if self.refused_opens:
            raise self.refused_opens.pop()

    def _notify(self) -> None:
        self.notified += 1

    def take(self, frame: Frame) -> None:
        assert self.connection.is_short(frame)
        self.connection.take(frame, 0.0)

    def events(self) -> tuple[Mail, list[Refusal]]:
        self.turns.take()
        return self.connection.collect()


@pytest.fixture
def world() -> World:
    return World()


def opens(*numbers: int, **fields: Any) -> Frame:
    return Frame(opens=[Open(number=number, **fields) for number in numbers], others=len(numbers))


def push(*elements: int, numbers: tuple[int, ...] = (1,), counts: tuple[int, ...] = ()) -> Frame:
    raw = np.array(elements, "<i8").tobytes()
    return Frame(push=Push(numbers=numbers, counts=counts, elements=raw))


def sums(mail: Mail) -> dict[int, list[int]]:
    """Predictions by session."""
    found: dict[int, list[int]] = {}
    for delivery in mail.deliveries:
        values = delivery.outputs["sum"].tolist()
        for number, count in zip(delivery.numbers, delivery.counts, strict=True):
            found.setdefault(number, []).extend(values[:count])
            values = values[count:]
    return found


def wants_more(world: World) -> bool:
    return world.connection.backlog.wants_more


def test_elements_become_predictions(world: World) -> None:
    world.take(opens(1, 2))
    world.take(push(1, 2, 3, 7, numbers=(1, 2), counts=(3, 1)))
    mail, refusals = world.events()
    assert [event.number for event in mail.opened] == [1, 2]
    assert sums(mail) == {1: predicted([1, 2, 3]), 2: predicted([7])}
    assert refusals == []
    assert world.notified


def test_a_closed_session_ends_after_its_elements_and_is_forgotten(world: World) -> None:
    world.take(opens(1))
    world.take(push(4, 5))
    world.take(Frame(closes=[1], others=1))
    assert not world.connection.empty
    mail, _ = world.events()
    assert sums(mail) == {1: predicted([4, 5])}
    [ended] = mail.ended
    assert (ended.ending.reason, ended.position) == (EndReason.FINISHED, 2)
    assert world.connection.empty


def test_an_invalid_element_ends_its_session_alone(world: World) -> None:
    world.take(opens(1, 2))
    world.take(push(100, 7, numbers=(1, 2)))
    mail, _ = world.events()
    [ended] = mail.ended
    assert (ended.number, ended.ending.reason) == (1, EndReason.INVALID_ELEMENT)
    assert "element at position 0" in ended.ending.message
    assert sums(mail) == {2: predicted([7])}


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (push(1, numbers=(5,)), "push to session 5, which was never opened"),
        (Frame(closes=[5], others=1), "close of session 5, which was never opened"),
        (Frame(tickets=[5], others=1), "ticket of session 5, which was never opened"),
    ],
)
def test_a_request_about_an_unknown_session_is_refused(
    world: World, frame: Frame, message: str
) -> None:
    world.take(frame)
    _, [refusal] = world.events()
    assert refusal.number == 5
    assert refusal.error is InvalidRequest
    assert message in refusal.message


def test_numbers_grow(world: World) -> None:
    world.take(opens(2))
    world.take(opens(1))
    mail, [refusal] = world.events()
    assert [event.number for event in mail.opened] == [2]
    assert (refusal.number, refusal.error) == (1, InvalidRequest)


def test_a_full_server_refuses_a_session_and_keeps_the_rest(world: World) -> None:
    world.take(opens(1, 2, 3, 4))
    mail, [refusal] = world.events()
    assert [event.number for event in mail.opened] == [1, 2, 3]
    assert (refusal.number, refusal.error) == (4, Overloaded)


def test_a_caller_that_opens_too_many_sessions_is_refused(world: World) -> None:
    world.refused_opens = [Overloaded("too many", retry_after=1.0)]
    world.take(opens(1, 2))
    mail, [refusal] = world.events()
    assert refusal.number == 1
    assert [event.number for event in mail.opened] == [2]


def test_a_field_without_a_form_refuses_its_session(world: World) -> None:
    world.take(opens(1, invalid="form 7 is unknown"))
    assert world.events()[1] == [Refusal.of(1, InvalidRequest("form 7 is unknown"))]


class Contexts(list[GivenContext]):
    """A list with weak references."""


def test_a_refusal_keeps_nothing_of_its_request(world: World) -> None:
    contexts: Any = Contexts([GivenContext(name="x", raw=b"not a context of the model")])
    kept = weakref.ref(contexts)
    world.take(opens(1, contexts=contexts))
    del contexts
    assert len(world.connection.refusals) == 1
    assert kept() is None


def test_a_session_gets_the_outputs_asked_for(world: World) -> None:
    request = OutputRequest(name="product", form=Form.RAW, k=0)
    world.take(opens(1, outputs=(request,)))
    _, [refusal] = world.events()
    assert "product" in refusal.message


def test_a_session_goes_on_from_its_ticket(world: World) -> None:
    world.take(opens(1))
    world.take(push(1, 2))
    world.take(Frame(tickets=[1], others=1))
    mail, _ = world.events()
    [taken] = mail.snapshots
    ticket = Ticketing(world.model, Caller()).issue(taken)
    world.take(opens(2, ticket=ticket))
    world.take(push(3, numbers=(2,)))
    mail, _ = world.events()
    assert [(event.number, event.first_position) for event in mail.opened] == [(2, 2)]
    assert sums(mail) == {2: predicted([1, 2, 3])[2:]}


def test_a_ticket_of_another_identity_is_refused(world: World) -> None:
    world.take(opens(1))
    world.take(Frame(tickets=[1], others=1))
    [taken] = world.events()[0].snapshots
    ticket = Ticketing(world.model, Caller(identity="alice")).issue(taken)
    world.take(opens(2, ticket=ticket))
    _, [refusal] = world.events()
    assert "another identity" in refusal.message


def test_nothing_more_is_read_beyond_a_window(world: World) -> None:
    world.take(opens(1))
    assert wants_more(world)
    world.take(push(*range(WINDOW + 1)))
    assert not wants_more(world)
    world.events()
    assert wants_more(world)


def test_a_crowded_server_takes_small_pushes_of_idle_connections_alone(world: World) -> None:
    world.take(opens(1))
    world.take(push(*[1] * 100))
    assert world.admission.crowded
    assert not world.connection.backlog.fits(push(1))
    assert not world.connection.backlog.has_room
    other = World()
    other.connection.backlog._admission = world.admission
    assert other.connection.backlog.fits(push(*range(WINDOW)))
    assert not other.connection.backlog.fits(push(*range(WINDOW + 1)))


def test_slices_take_what_a_short_frame_takes(world: World) -> None:
    parts = 0
    frame = Frame(
        opens=[Open(number=1), Open(number=2)],
        push=push(1, 2, 7, numbers=(1, 2), counts=(2, 1)).push,
        closes=[1],
        others=3,
    )
    for _ in world.connection.slices(frame, 0.0):
        parts += 1
    assert parts >= 4
    mail, refusals = world.events()
    assert sums(mail) == {1: predicted([1, 2]), 2: predicted([7])}
    assert [event.number for event in mail.ended] == [1]
    assert refusals == []


def test_slices_that_are_given_up_leave_no_count_of_elements(world: World) -> None:
    world.take(opens(1))
    slices = world.connection.slices(push(*[1] * 50), 0.0)
    next(slices)
    assert world.model.engine.untaken == 50
    slices.close()
    assert world.model.engine.untaken == 0


def test_a_frame_names_a_limited_number_of_sessions(world: World) -> None:
    frame = Frame(push=Push(numbers=range(65_537), counts=(), elements=b""))
    with pytest.raises(InvalidRequest, match="names sessions 65537 times"):
        world.connection.is_short(frame)


@pytest.mark.parametrize(
    ("push", "message"),
    [
        (Push(numbers=(1,), counts=(), elements=None), "no elements"),
        (Push(numbers=(), counts=(), elements=b""), "names no session"),
        (Push(numbers=(1,), counts=(1, 1), elements=b""), "2 counts for 1 sessions"),
    ],
)
def test_a_malformed_push_is_an_error_of_the_connection(
    world: World, push: Push, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        world.take(Frame(push=push))


def test_a_detached_model_opens_no_sessions(world: World) -> None:
    world.connection.detach(World().model)
    world.take(opens(1))
    world.connection.detach(world.model)
    assert world.connection.closing
    world.take(opens(2))
    mail, [refusal] = world.events()
    assert [event.number for event in mail.opened] == [1]
    assert refusal.number == 2
    assert refusal.error is ModelUnavailable


def test_a_connection_that_is_gone_frees_its_sessions(world: World) -> None:
    world.take(opens(1, 2))
    world.take(push(1, 2, numbers=(1, 2)))
    world.connection.lift_limits()
    for session in world.connection.sessions:
        world.connection.drop(session)
    world.connection.abandon()
    world.turns.take()
    assert world.admission.sessions == 0
    assert world.model.engine.slots == 0
