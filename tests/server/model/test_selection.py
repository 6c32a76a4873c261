"""Each session gets the outputs that it asked for, in the form that it asked for, to the bit."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from elman_server.errors import InvalidRequest
from elman_server.model.selection import Form, OutputRequest, Selection, softmax, top
from elman_server.model.spec import OutputKind, OutputSpec

VALUES = OutputSpec(name="values", kind=OutputKind.VALUES, dtype="int16", shape=(2, 3))
LOGITS = OutputSpec(name="logits", kind=OutputKind.LOGITS, dtype="float64", shape=(5,))
CHANCE = OutputSpec(name="chance", kind=OutputKind.PROBABILITIES, dtype="float16", shape=(4,))
SCALAR = OutputSpec(name="scalar", kind=OutputKind.PROBABILITIES, dtype="float32")
OUTPUTS = (VALUES, LOGITS, CHANCE, SCALAR)


def select(*requests: OutputRequest) -> Selection:
    return Selection(requests, OUTPUTS)


def predictions(n: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    return {out.name: (rng.normal(size=(n, *out.shape)) * 9).astype(out.dtype) for out in OUTPUTS}


def test_without_requests_every_output_comes_raw_in_the_models_order() -> None:
    outputs = predictions(3)
    columns = select().encode(outputs)
    assert [column.values for column in columns] == [outputs[out.name].tobytes() for out in OUTPUTS]
    assert {column.indices for column in columns} == {b""}


def test_outputs_come_in_the_order_asked_for_and_as_often() -> None:
    outputs = predictions(2)
    columns = select(
        OutputRequest(name="logits"), OutputRequest(name="values"), OutputRequest(name="logits")
    ).encode(outputs)
    assert [column.values for column in columns] == [
        outputs[name].tobytes() for name in ("logits", "values", "logits")
    ]


def test_only_what_was_asked_for_is_needed() -> None:
    assert select(OutputRequest(name="chance")).names == {"chance"}


def test_probabilities_of_logits_are_their_softmax_in_float32() -> None:
    outputs = predictions(3)
    [column] = select(OutputRequest(name="logits", form=Form.PROBABILITIES)).encode(outputs)
    logits = outputs["logits"].astype(np.float32)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = powers / powers.sum(axis=1, keepdims=True)
    assert np.frombuffer(column.values, "<f4").tolist() == expected.ravel().tolist()


def test_probabilities_are_given_in_float32_as_they_are() -> None:
    outputs = predictions(3)
    [column] = select(OutputRequest(name="chance", form=Form.PROBABILITIES)).encode(outputs)
    assert column.values == outputs["chance"].astype("<f4").tobytes()


def test_the_top_of_logits_has_probabilities_of_all_entries() -> None:
    outputs = {"logits": np.array([[1.0, 3.0, 2.0, 0.0, -1.0]])}
    [column] = select(OutputRequest(name="logits", form=Form.TOP, k=2)).encode(outputs)
    everything = softmax(outputs["logits"].astype(np.float32))[0]
    assert np.frombuffer(column.indices, "<u4").tolist() == [1, 2]
    assert np.frombuffer(column.values, "<f4").tolist() == everything[[1, 2]].tolist()


def test_the_top_of_values_has_the_outputs_own_numbers() -> None:
    outputs = {"values": np.array([[[5, 9, 7], [3, 1, 2]]], np.int16)}
    [column] = select(OutputRequest(name="values", form=Form.TOP, k=2)).encode(outputs)
    assert np.frombuffer(column.indices, "<u4").tolist() == [1, 2, 0, 2]
    assert np.frombuffer(column.values, "<i2").tolist() == [9, 7, 3, 2]


@pytest.mark.parametrize(
    ("row", "k", "indices"),
    [
        ([1, 1, 1], 3, [0, 1, 2]),
        ([0, 2, 2, 1], 3, [1, 2, 3]),
        ([3, 1, 3], 1, [0]),
        ([0.0, -0.0], 2, [0, 1]),
    ],
)
def test_among_equals_the_lower_index_comes_first(
    row: list[float], k: int, indices: list[int]
) -> None:
    assert top(np.array([row]), k).tolist() == [indices]


tables = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.integers(1, 70)),
    elements=st.floats(-50, 50, width=32),
)


@given(tables)
def test_a_rows_softmax_does_not_depend_on_other_rows(table: NDArray[np.float32]) -> None:
    together = softmax(table)
    alone = [softmax(table[row : row + 1])[0] for row in range(len(table))]
    assert [row.tobytes() for row in together] == [row.tobytes() for row in alone]


@given(tables, st.data())
def test_the_top_is_what_sorting_gives(table: NDArray[np.float32], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, table.shape[1]))
    expected = [sorted(range(len(row)), key=lambda i: (-row[i], i))[:k] for row in table]
    assert top(table, k).tolist() == expected


@given(st.lists(st.integers(0, 6), max_size=6), st.sampled_from(list(Form)))
def test_joined_parts_equal_the_whole_encoded_at_once(sizes: list[int], form: Form) -> None:
    k = 2 if form is Form.TOP else 0
    selection = select(
        OutputRequest(name="logits", form=form, k=k), OutputRequest(name="chance", form=form, k=k)
    )
    outputs = predictions(sum(sizes))
    starts = np.cumsum([0, *sizes]).tolist()
    parts = [
        selection.encode({name: array[start : start + size] for name, array in outputs.items()})
        for start, size in zip(starts, sizes, strict=False)
    ]
    assert selection.join(parts) == selection.encode(outputs)


requests = st.one_of(
    st.builds(OutputRequest, name=st.sampled_from([out.name for out in OUTPUTS])),
    st.builds(
        OutputRequest,
        name=st.sampled_from(["logits", "chance"]),
        form=st.just(Form.PROBABILITIES),
    ),
    st.builds(
        OutputRequest,
        name=st.sampled_from(["values", "logits", "chance"]),
        form=st.just(Form.TOP),
        k=st.integers(1, 3),
    ),
)


@given(st.lists(requests, max_size=4), st.integers(1, 5))
def test_the_size_of_an_element_is_what_it_takes_encoded(
    wanted: list[OutputRequest], n: int
) -> None:
    selection = select(*wanted)
    columns = selection.encode(predictions(n))
    size = sum(len(column.values) + len(column.indices) for column in columns)
    assert size == n * selection.element_nbytes


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            OutputRequest(name="nothing"),
            "output 'nothing' is unknown; the model has values, logits, chance, scalar",
        ),
        (
            OutputRequest(name="values", form=Form.PROBABILITIES),
            "output 'values' holds values, which have no probabilities; ask for it raw",
        ),
        (
            OutputRequest(name="logits", form=Form.TOP, k=0),
            "k is 0 for output 'logits'; allowed is 1 to 5",
        ),
        (
            OutputRequest(name="logits", form=Form.TOP, k=6),
            "k is 6 for output 'logits'; allowed is 1 to 5",
        ),
        (
            OutputRequest(name="scalar", form=Form.TOP, k=1),
            "k is 1 for output 'scalar'; it is a scalar, so has no top",
        ),
        (
            OutputRequest(name="logits", k=3),
            "k is 3 for output 'logits'; only top takes it",
        ),
    ],
)
def test_what_can_not_be_had_is_refused(request_: OutputRequest, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        select(request_)
    assert str(caught.value) == message
