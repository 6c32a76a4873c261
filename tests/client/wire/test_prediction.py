"""What a caller sees of the numbers that came."""

from collections.abc import Callable

import numpy as np
import pytest

import elman
from elman._wire.model import Input, InputKind, Model, Output, OutputKind
from elman._wire.outputs import Frame, OutputChoice, resolve
from elman._wire.prediction import softmax
from elman.v1 import inference_pb2 as pb


def output(name: str, kind: OutputKind, dtype: str, *shape: int, labels: str = "") -> Output:
    return Output(name=name, kind=kind, dtype=np.dtype(dtype), shape=shape, labels=tuple(labels))


MODEL = Model(
    name="m",
    version="1",
    fingerprint="",
    description="",
    input=Input(
        kind=InputKind.FEATURES,
        dtype=np.dtype("<f4"),
        shape=(),
        size=0,
        vocabulary=(),
        accepts_unknown=False,
    ),
    outputs=(
        output("next", OutputKind.LOGITS, "<f4", 3, labels="abc"),
        output("positive", OutputKind.PROBABILITIES, "<f4"),
        output("hidden", OutputKind.VALUES, "<f8", 2, 2),
        output("scores", OutputKind.VALUES, "<i4", 3),
    ),
    state_bytes=0,
)
LOGITS = np.log(np.array([[1, 2, 7], [5, 3, 2]], "<f4"))


def frame(choices: dict[OutputChoice, np.ndarray | tuple[np.ndarray, np.ndarray]]) -> Frame:
    """A frame of these outputs, packed as on the wire."""
    values = []
    for given in choices.values():
        arrays = given if isinstance(given, tuple) else (given,)
        values.append(pb.Values(values=arrays[0].tobytes()))
        if len(arrays) == 2:
            values[-1].indices = arrays[1].astype("<u4").tobytes()
    return resolve(MODEL, list(choices)).decode(values, 2)


@pytest.fixture
def raw() -> elman.Predictions:
    return elman.Predictions(
        frame(
            {
                "next": LOGITS,
                "positive": np.array([0.25, 0.5], "<f4"),
                "hidden": np.arange(8.0).reshape(2, 2, 2),
            }
        )
    )


@pytest.fixture
def top() -> elman.Prediction:
    values, indices = np.array([[0.7, 0.2], [0.5, 0.3]], "<f4"), np.array([[2, 1], [0, 1]])
    return elman.Predictions(frame({elman.Top("next", 2): (values, indices)}))[0]


def test_an_output_is_an_array_and_a_scalar_a_python_number(raw: elman.Predictions) -> None:
    prediction = raw[1]
    assert prediction["hidden"].tolist() == [[4, 5], [6, 7]]
    assert (prediction["positive"], type(prediction["positive"])) == (0.5, float)


def test_arrays_are_the_callers_own(raw: elman.Predictions) -> None:
    raw[0]["hidden"][:] = 9
    raw["hidden"][:] = 9
    assert raw[0]["hidden"].tolist() == [[0, 1], [2, 3]]


def test_it_reads_as_a_mapping(raw: elman.Predictions) -> None:
    prediction = raw[0]
    assert list(prediction) == prediction.keys() == ["next", "positive", "hidden"]
    assert len(prediction) == 3
    assert "positive" in prediction and "negative" not in prediction
    assert dict(prediction)["positive"] == 0.25
    with pytest.raises(KeyError, match="no output 'negative'; requested were 'next', "):
        prediction["negative"]


def test_top_gives_labels_and_probabilities_of_logits(raw: elman.Predictions) -> None:
    best = raw[0].top(3)
    assert [entry.label for entry in best] == ["c", "b", "a"]
    assert [entry.probability for entry in best] == pytest.approx([0.7, 0.2, 0.1])


def test_top_gives_what_the_server_chose(top: elman.Prediction) -> None:
    (best,) = top.top()
    assert best.label == "c"
    assert best.probability == pytest.approx(0.7)
    assert [entry.label for entry in top.top(2)] == ["c", "b"]
    assert top["next"].indices.tolist() == [2, 1]
    assert top["next"].values.tolist() == pytest.approx([0.7, 0.2])


def test_top_of_values_gives_indices_and_their_numbers() -> None:
    (prediction, _) = elman.Predictions(frame({"scores": np.array([[3, 9, 1]] * 2, "<i4")}))
    assert prediction.top(2) == [elman.Alternative(1, 9), elman.Alternative(0, 3)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.top(4), "k is 4; allowed are 1 to 3"),
        (lambda p: p.top(0), "k is 0"),
        (lambda p: p.top(1, "positive"), r"'positive' has shape \[\]"),
        (lambda p: p.top(1, "hidden"), r"shape \[2, 2\]"),
    ],
)
def test_what_has_no_such_alternatives_says_so(
    raw: elman.Predictions, call: Callable[[elman.Prediction], object], message: str
) -> None:
    with pytest.raises(elman.InvalidRequest, match=message):
        call(raw[0])


def test_an_output_must_be_named_where_there_are_several() -> None:
    both = elman.Predictions(frame({"next": LOGITS, "scores": np.zeros((2, 3), "<i4")}))
    with pytest.raises(elman.InvalidRequest, match="name the output: 2 of 'next', 'scores'"):
        both[0].top()


def test_no_more_alternatives_than_were_requested(top: elman.Prediction) -> None:
    with pytest.raises(elman.InvalidRequest, match="allowed are 1 to 2"):
        top.top(3)


def test_it_shows_what_it_holds(raw: elman.Predictions, top: elman.Prediction) -> None:
    assert repr(raw[0]) == (
        "Prediction(position=0, next=['c' 0.7, 'b' 0.2, 'a' 0.1], positive=0.25, "
        "hidden=float64[2, 2])"
    )
    assert repr(top) == "Prediction(position=0, next=['c' 0.7, 'b' 0.2, ...])"
    assert repr(raw) == "<Predictions of 2 elements: 'next', 'positive', 'hidden'>"


def test_predictions_are_a_sequence_with_stacked_outputs(raw: elman.Predictions) -> None:
    assert len(raw) == 2
    assert [prediction.position for prediction in raw] == [0, 1]
    assert raw[-1].position == 1
    assert [prediction.position for prediction in raw[1:]] == [1]
    assert raw["hidden"].shape == (2, 2, 2)
    assert raw["positive"].tolist() == [0.25, 0.5]
    with pytest.raises(IndexError):
        raw[2]


def test_an_answer_of_another_size_is_an_error() -> None:
    layout = resolve(MODEL, "positive")
    with pytest.raises(elman.ServerError, match="3 bytes of 'positive' for 2 predictions"):
        layout.decode([pb.Values(values=b"abc")], 2)
    with pytest.raises(elman.ServerError, match="0 outputs; 1 were requested"):
        layout.decode([], 2)


def test_softmax_is_stable() -> None:
    assert softmax(np.array([1000.0, 1000.0, -np.inf], "f4")).tolist() == [0.5, 0.5, 0]
    assert softmax(np.array([0.0, 0.0], "f2")).dtype == np.float32
