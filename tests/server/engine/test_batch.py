"""A step's outputs go to those who asked, whole and in order, however they are cut."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from elman_server.engine.batch import Arrival, Arrivals, Batch, Delivery, Shares, deliveries
from elman_server.engine.outbox import Outbox
from elman_server.engine.session import CANCELLED, Session
from elman_server.engine.state_pool import Slot
from tests.server.fakes import FakeSelection


def outbox() -> Outbox:
    return Outbox(limit=float("inf"), notify=lambda: None)


def session(box: Outbox, selection: FakeSelection, number: int = 0) -> Session:
    return Session(id="", number=number, outbox=box, selection=selection, slot=Slot(number, 0))


def batch(sessions: list[Session], counts: list[int]) -> Batch:
    return Batch(
        sessions=sessions,
        slots=list(range(len(sessions))),
        counts=counts,
        chunk=max(counts),
        shares=one_each(counts),
        fresh=[],
        outputs=frozenset({"sum", "negated"}),
    )


def one_each(counts: list[int]) -> Shares:
    """Row `i` has all of an arrival at time `i`; its elements are counted on from row to row."""
    stops = np.cumsum(counts).tolist()
    return Shares(
        [
            (Arrival(np.arange(stop - count, stop), float(row)), 0, count)
            for row, (count, stop) in enumerate(zip(counts, stops, strict=True))
        ],
        [row + 1 for row in range(len(counts))],
    )


def outputs(rows: int, chunk: int) -> dict[str, NDArray[np.int64]]:
    """Row 2, time 3 is 203."""
    table = 100 * np.arange(rows)[:, None] + np.arange(chunk)
    return {"sum": table, "negated": -table}


def test_sessions_with_the_same_outbox_and_selection_share_a_delivery() -> None:
    box, selection = outbox(), FakeSelection()
    step = batch([session(box, selection), session(box, selection)], [2, 1])
    [(found, delivery)] = deliveries(step, [7, 0], outputs(2, 2))
    assert found is box
    assert (delivery.sessions, delivery.counts) == (step.sessions, [2, 1])
    assert delivery.first_positions == [7, 0]
    assert delivery.outputs["sum"].tolist() == [0, 1, 100]
    assert (delivery.arrivals.times, delivery.arrivals.counts) == ([0.0, 1.0], [2, 1])


def test_each_outbox_and_each_selection_gets_its_own_rows_and_outputs() -> None:
    boxes = [outbox(), outbox()]
    plain, negated = FakeSelection(), FakeSelection(frozenset({"negated"}))
    step = batch(
        [
            session(boxes[0], plain, 0),
            session(boxes[1], plain, 1),
            session(boxes[0], negated, 2),
            session(boxes[0], plain, 3),
        ],
        [1, 2, 3, 2],
    )
    told = {
        (boxes.index(box), delivery.selection): delivery
        for box, delivery in deliveries(step, [0, 10, 20, 30], outputs(4, 3))
    }
    assert {key: [s.number for s in value.sessions] for key, value in told.items()} == {
        (0, plain): [0, 3],
        (1, plain): [1],
        (0, negated): [2],
    }
    assert {
        name: array.tolist()
        for delivery in told.values()
        if delivery is told[0, plain]
        for name, array in delivery.outputs.items()
    } == {"sum": [0, 300, 301]}
    assert told[1, plain].outputs["sum"].tolist() == [100, 101]
    assert told[0, negated].outputs.keys() == {"negated"}
    assert told[0, negated].outputs["negated"].tolist() == [-200, -201, -202]
    assert told[0, plain].first_positions == [0, 30]
    assert told[0, plain].arrivals.times == [0.0, 3.0]


def test_ended_sessions_get_nothing() -> None:
    box, selection = outbox(), FakeSelection()
    gone, here = session(box, selection, 0), session(box, selection, 1)
    gone.ended = CANCELLED
    [(_, delivery)] = deliveries(batch([gone, here], [1, 1]), [0, 0], outputs(2, 1))
    assert delivery.sessions == [here]
    assert delivery.outputs["sum"].tolist() == [100]


def test_a_step_of_ended_sessions_goes_to_nobody() -> None:
    gone = session(outbox(), FakeSelection())
    gone.ended = CANCELLED
    assert list(deliveries(batch([gone], [1]), [0], outputs(1, 1))) == []


def test_a_part_of_a_step_does_not_keep_the_rest_in_memory() -> None:
    selection = FakeSelection()
    step = batch([session(outbox(), selection, row) for row in range(8)], [4] * 8)
    for _, delivery in deliveries(step, [0] * 8, outputs(8, 4)):
        base: Any = delivery.outputs["sum"]
        while base.base is not None:
            base = base.base
        assert base.size == 4


counts = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def packed(counts: list[int], element_nbytes: int) -> Delivery:
    box, selection = outbox(), FakeSelection(element_nbytes=element_nbytes)
    return Delivery(
        selection=selection,
        sessions=[session(box, selection, row) for row in range(len(counts))],
        counts=counts,
        first_positions=[1000 * row for row in range(len(counts))],
        outputs={"sum": np.arange(sum(counts))},
        arrivals=Arrivals(
            times=[float(n) for n in counts],
            counts=counts,
        ),
    )


@given(counts, st.integers(1, 40), st.integers(1, 400))
def test_what_was_split_makes_the_whole_again(
    counts: list[int], element_nbytes: int, nbytes: int
) -> None:
    delivery = packed(counts, element_nbytes)
    parts = list(delivery.split(nbytes))
    assert expanded(parts) == expanded([delivery])
    assert np.concatenate([part.outputs["sum"] for part in parts]).tolist() == list(
        range(sum(counts))
    )
    assert all(len(part.outputs["sum"]) == sum(part.counts) for part in parts)


@given(counts, st.integers(1, 40), st.integers(1, 400))
def test_no_part_is_larger_than_asked_for(
    counts: list[int], element_nbytes: int, nbytes: int
) -> None:
    """But for one prediction, which can't be cut."""
    for part in packed(counts, element_nbytes).split(nbytes):
        assert sum(part.counts) * element_nbytes <= max(nbytes, element_nbytes)


@given(counts, st.integers(1, 40), st.integers(1, 400))
def test_the_parts_count_each_arrival_once(
    counts: list[int], element_nbytes: int, nbytes: int
) -> None:
    delivery = packed(counts, element_nbytes)
    parts = list(delivery.split(nbytes))
    times = [time for part in parts for time in part.arrivals.times]
    assert times == delivery.arrivals.times


def test_what_fits_is_not_split() -> None:
    delivery = packed([3, 4], element_nbytes=8)
    assert list(delivery.split(delivery.sent_nbytes)) == [delivery]


def expanded(parts: list[Delivery]) -> list[tuple[int, int]]:
    """Session number and position of each prediction."""
    return [
        (session.number, first + step)
        for part in parts
        for session, first, count in zip(
            part.sessions, part.first_positions, part.counts, strict=True
        )
        for step in range(count)
    ]


@given(counts, st.data())
def test_a_part_of_a_batch_holds_some_of_its_rows_as_they_were(
    counts: list[int], data: st.DataObject
) -> None:
    box, selection = outbox(), FakeSelection()
    whole = batch([session(box, selection, row) for row in range(len(counts))], counts)
    starts = [sum(counts[:row]) for row in range(len(counts))]
    whole = replace(
        whole,
        fresh=[row for row in range(len(counts)) if row % 3 == 0],
    )
    first = data.draw(st.integers(0, len(counts) - 1))
    stop = data.draw(st.integers(first + 1, len(counts)))
    part = whole.part(first, stop)
    rows = range(first, stop)
    assert part.sessions == whole.sessions[first:stop]
    assert (part.slots, part.counts) == (list(rows), counts[first:stop])
    assert part.chunk == max(part.counts)
    assert np.concatenate(part.elements).tolist() == [
        starts[row] + step for row in rows for step in range(counts[row])
    ]
    assert [part.sessions[row] for row in part.fresh] == [
        whole.sessions[row] for row in whole.fresh if row in rows
    ]
    assert part.outputs == whole.outputs
    assert part.shares.arrivals == Arrivals(
        times=[float(row) for row in rows], counts=counts[first:stop]
    )


def test_neighbours_in_an_arrival_are_read_as_one() -> None:
    first, second = Arrival(np.arange(10), 1.0), Arrival(np.arange(100, 110), 2.0)
    shares = Shares(
        [(first, 0, 2), (first, 2, 5), (first, 6, 7), (second, 7, 8), (second, 8, 9)],
        [1, 2, 4, 5],
    )
    assert shares.runs == [(first, 0, 5), (first, 6, 7), (second, 7, 9)]
    assert shares.arrivals == Arrivals(times=[1.0, 1.0, 2.0], counts=[5, 1, 2])
    assert shares.of([0, 2]).runs == [(first, 0, 2), (first, 6, 7), (second, 7, 8)]
