"""A step's outputs go to those who asked, whole and in order, however they are cut."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from elman_server.engine.jobs.batch import Batch, Part, deliveries
from elman_server.engine.outboxes.delivery import Delivery
from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.sessions.phase import Stage
from elman_server.engine.sessions.session import Session
from elman_server.engine.sessions.table import SessionTable
from tests.server.fakes import FakeSelection, session_in


def outbox() -> Outbox:
    return Outbox(limit=float("inf"), notify=lambda: None)


def rows(callers: list[tuple[Outbox, FakeSelection]]) -> list[Session]:
    """Sessions with these outboxes and selections, numbered from 0."""
    table = SessionTable()
    return [session_in(table, box, each, row) for row, (box, each) in enumerate(callers)]


def batch(sessions: list[Session], counts: list[int], positions: list[int] | None = None) -> Batch:
    """Row `i` arrived at time `i`; elements are counted on from row to row. Sessions with the same
    receiver stand together."""
    table = sessions[0]._table
    table.position[: len(sessions)] = positions or [0] * len(sessions)
    parts: list[Part] = []
    for row, session in enumerate(sessions):
        if parts and parts[-1].receiver is session.receiver:
            parts[-1] = Part(session.receiver, parts[-1].start, row + 1)
        else:
            parts.append(Part(session.receiver, row, row + 1))
    return Batch(
        table=table,
        slots=np.arange(len(sessions)),
        counts=np.array(counts),
        chunk=max(counts),
        elements=np.arange(sum(counts)),
        times=np.repeat(np.arange(len(counts), dtype=float), counts),
        parts=parts,
        fresh=[],
        outputs=frozenset({"sum", "negated"}),
    )


def outputs(rows: int, chunk: int) -> dict[str, NDArray[np.int64]]:
    """Row 2, time 3 is 203."""
    table = 100 * np.arange(rows)[:, None] + np.arange(chunk)
    return {"sum": table, "negated": -table}


def test_sessions_with_the_same_outbox_and_selection_share_a_delivery() -> None:
    box, selection = outbox(), FakeSelection()
    step = batch(rows([(box, selection)] * 2), [2, 1], [7, 0])
    [(found, delivery)] = deliveries(step, outputs(2, 2))
    assert found is box
    assert (delivery.numbers, delivery.counts) == ([0, 1], [2, 1])
    assert delivery.first_positions == [7, 0]
    assert delivery.outputs["sum"].tolist() == [0, 1, 100]
    assert delivery.times.tolist() == [0.0, 0.0, 1.0]


def test_each_outbox_and_each_selection_gets_its_own_rows_and_outputs() -> None:
    boxes = [outbox(), outbox()]
    plain, negated = FakeSelection(), FakeSelection(frozenset({"negated"}))
    step = batch(
        rows([(boxes[0], plain), (boxes[0], plain), (boxes[1], plain), (boxes[0], negated)]),
        [1, 2, 2, 3],
        [0, 30, 10, 20],
    )
    told = {
        (boxes.index(box), delivery.selection): delivery
        for box, delivery in deliveries(step, outputs(4, 3))
    }
    assert {key: value.numbers for key, value in told.items()} == {
        (0, plain): [0, 1],
        (1, plain): [2],
        (0, negated): [3],
    }
    assert {
        name: array.tolist()
        for delivery in told.values()
        if delivery is told[0, plain]
        for name, array in delivery.outputs.items()
    } == {"sum": [0, 100, 101]}
    assert told[1, plain].outputs["sum"].tolist() == [200, 201]
    assert told[0, negated].outputs.keys() == {"negated"}
    assert told[0, negated].outputs["negated"].tolist() == [-300, -301, -302]
    assert told[0, plain].first_positions == [0, 30]
    assert told[0, plain].times.tolist() == [0.0, 1.0, 1.0]


def test_ended_sessions_get_nothing() -> None:
    step = batch(rows([(outbox(), FakeSelection())] * 3), [2, 1, 2], [5, 6, 7])
    step.table.leave(1, Stage.ENDED)
    [(_, delivery)] = deliveries(step, outputs(3, 2))
    assert (delivery.numbers, delivery.counts) == ([0, 2], [2, 2])
    assert delivery.first_positions == [5, 7]
    assert delivery.outputs["sum"].tolist() == [0, 1, 200, 201]
    assert delivery.times.tolist() == [0.0, 0.0, 2.0, 2.0]


def test_a_step_of_ended_sessions_goes_to_nobody() -> None:
    step = batch(rows([(outbox(), FakeSelection())]), [1])
    step.table.leave(0, Stage.ENDED)
    assert list(deliveries(step, outputs(1, 1))) == []


def test_a_part_of_a_step_does_not_keep_the_rest_in_memory() -> None:
    selection = FakeSelection()
    step = batch(rows([(outbox(), selection) for _ in range(8)]), [4] * 8)
    for _, delivery in deliveries(step, outputs(8, 4)):
        base: Any = delivery.outputs["sum"]
        while base.base is not None:
            base = base.base
        assert base.size == 4


counts = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def packed(counts: list[int], element_nbytes: int) -> Delivery:
    return Delivery(
        selection=FakeSelection(element_nbytes=element_nbytes),
        numbers=list(range(len(counts))),
        counts=counts,
        first_positions=[1000 * row for row in range(len(counts))],
        outputs={"sum": np.arange(sum(counts))},
        times=np.arange(sum(counts), dtype=float),
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
    assert np.concatenate([part.times for part in parts]).tolist() == delivery.times.tolist()


@given(counts, st.integers(1, 40), st.integers(1, 400))
def test_no_part_is_larger_than_asked_for(
    counts: list[int], element_nbytes: int, nbytes: int
) -> None:
    """But for one prediction, which can't be cut."""
    for part in packed(counts, element_nbytes).split(nbytes):
        assert sum(part.counts) * element_nbytes <= max(nbytes, element_nbytes)


def test_what_fits_is_not_split() -> None:
    delivery = packed([3, 4], element_nbytes=8)
    assert list(delivery.split(delivery.sent_nbytes)) == [delivery]


def expanded(parts: list[Delivery]) -> list[tuple[int, int]]:
    """Session number and position of each prediction."""
    return [
        (number, first + step)
        for part in parts
        for number, first, count in zip(
            part.numbers, part.first_positions, part.counts, strict=True
        )
        for step in range(count)
    ]


@given(counts, st.data())
def test_a_part_of_a_batch_holds_some_of_its_rows_as_they_were(
    counts: list[int], data: st.DataObject
) -> None:
    whole = batch(rows([(outbox(), FakeSelection()) for _ in counts]), counts)
    starts = [sum(counts[:row]) for row in range(len(counts))]
    whole = replace(
        whole,
        fresh=[row for row in range(len(counts)) if row % 3 == 0],
    )
    first = data.draw(st.integers(0, len(counts) - 1))
    stop = data.draw(st.integers(first + 1, len(counts)))
    part = whole.part(first, stop)
    rows_of_it = range(first, stop)
    assert (part.slots.tolist(), part.counts.tolist()) == (list(rows_of_it), counts[first:stop])
    assert part.chunk == max(part.counts)
    assert [(each.receiver, each.start, each.stop) for each in part.parts] == [
        (whole.parts[row].receiver, row - first, row - first + 1) for row in rows_of_it
    ]
    assert part.elements.tolist() == [
        starts[row] + step for row in rows_of_it for step in range(counts[row])
    ]
    assert [int(part.slots[row]) for row in part.fresh] == [
        int(whole.slots[row]) for row in whole.fresh if row in rows_of_it
    ]
    assert part.outputs == whole.outputs
    assert part.times.tolist() == [float(row) for row in rows_of_it for _ in range(counts[row])]
