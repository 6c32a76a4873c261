"""Predictions that are put on the wire by hand are what protobuf would have made of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from elman.v1 import inference_pb2 as pb
from elman_server.engine.outboxes.delivery import Delivery
from elman_server.frontend.wire import messages, wire
from elman_server.model.selection import Form, OutputRequest, Selection
from elman_server.model.spec import OutputKind, OutputSpec

OUTPUTS = [
    OutputSpec(name="next", kind=OutputKind.LOGITS, dtype="float32", shape=(5,)),
    OutputSpec(name="sure", kind=OutputKind.VALUES, dtype="bool", shape=()),
]
SELECTIONS = [
    Selection([], OUTPUTS),
    Selection([OutputRequest(name="sure")], OUTPUTS),
    Selection([OutputRequest(name="next", form=Form.TOP, k=2)], OUTPUTS),
]


@given(
    st.sampled_from(SELECTIONS),
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(0, 2**63)),
        min_size=1,
        max_size=20,
    ),
)
def test_predictions_read_as_protobuf_reads_them(
    selection: Selection, rows: list[tuple[int, int, int]]
) -> None:
    numbers, counts, positions = (list(column) for column in zip(*rows, strict=True))
    rng = np.random.default_rng(len(rows))
    outputs = {
        "next": rng.normal(size=(sum(counts), 5)).astype(np.float32),
        "sure": rng.random(sum(counts)) < 0.5,
    }
    delivery = Delivery(
        selection=selection,
        numbers=numbers,
        counts=counts,
        first_positions=positions,
        outputs=outputs,
        times=np.zeros(sum(counts)),
    )
    expected = pb.Predictions(
        sessions=numbers,
        counts=[] if set(counts) == {1} else counts,
        first_positions=positions,
        outputs=messages.values(selection.encode(outputs)),
    )
    found = pb.StreamResponse.FromString(b"".join(wire.predictions(delivery)))
    assert found == pb.StreamResponse(predictions=[expected])
