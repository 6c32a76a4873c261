"""States are paired where that is certain, and asked for where it is not."""

import pytest

from elman_export.errors import ExportError
from elman_export.original.adoption import pairs
from elman_export.original.adoption.port import Dims, Port

STATE: Dims = (1, None, 8)
ELEMENT: Dims = (None, 3)


def ports(*names: str, dims: Dims | None = STATE, dtype: str = "float32") -> list[Port]:
    return [Port(name=name, dtype=dtype, dims=dims) for name in names]


X, Y = ports("x", dims=ELEMENT), ports("y", dims=(None, 5))


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ("state", "stateN"),
        ("h c", "hn cn"),
        ("h0 c0", "hn cn"),
        ("h0 c0", "h0_out c0_out"),
        ("h_0 c_0", "h_n c_n"),
        ("h0 h1 c0 c1", "h0_out h1_out c0_out c1_out"),
        ("state_in_0 state_in_1", "state_out_0 state_out_1"),
        ("input_state", "output_state"),
        ("past_x.0 past_x.1", "present_x.0 present_x.1"),
        ("prev_hidden prev_cell", "new_hidden new_cell"),
        ("hiddenIn cellIn", "hiddenOut cellOut"),
        ("encoder.h encoder.c", "encoder.h.next encoder.c.next"),
        ("lstm_h lstm_c", "lstm_h_updated lstm_c_updated"),
    ],
)
def test_names_that_say_the_same_are_pairs(inputs: str, outputs: str) -> None:
    found = pairs.find([*X, *ports(*inputs.split())], [*Y, *ports(*outputs.split())], {})
    assert found == dict(zip(inputs.split(), outputs.split(), strict=True))


def test_the_only_pair_that_fits_is_one() -> None:
    inputs = [*X, *ports("onnx::LSTM_3")]
    assert pairs.find(inputs, [*Y, *ports("117")], {}) == {"onnx::LSTM_3": "117"}


def test_names_that_say_the_same_of_other_shapes_are_none() -> None:
    with pytest.raises(ExportError, match="no state"):
        pairs.find([*X, *ports("h")], [*Y, *ports("h_out", dims=(1, None, 9))], {})


def test_names_that_say_the_same_of_other_types_are_none() -> None:
    with pytest.raises(ExportError, match="no state"):
        pairs.find([*X, *ports("h")], [*Y, *ports("h_out", dtype="float64")], {})


def test_where_names_say_nothing_the_options_are_listed_to_choose_from() -> None:
    inputs = [*ports("input_2", dims=(1, 257)), *ports("input_3", dims=(2, 128))]
    outputs = [*ports("activation", dims=(1, 257)), *ports("stack", dims=(2, 128))]
    with pytest.raises(ExportError) as caught:
        pairs.find(inputs, outputs, {})
    assert str(caught.value) == (
        "one of the inputs input_2 [1, 257], input_3 [2, 128] takes the elements; say what the "
        "others are; states, by type and shape: --state input_2:activation --state input_3:stack; "
        "the same always: --constant NAME=VALUE; given once for a session: --context NAME"
    )
    assert pairs.find(inputs, outputs, {"input_3": "stack"}) == {"input_3": "stack"}


def test_two_states_of_one_shape_without_telling_names_are_not_guessed() -> None:
    with pytest.raises(ExportError, match="--state a:11 --state a:12 --state b:11 --state b:12"):
        pairs.find([*X, *ports("a", "b")], [*Y, *ports("11", "12")], {})


def test_what_is_given_helps_names_to_be_certain() -> None:
    inputs = [*X, *ports("h", "odd")]
    assert pairs.find(inputs, [*Y, *ports("hn", "44")], {"odd": "44"}) == {"odd": "44", "h": "hn"}


def test_a_scalar_that_is_left_is_most_likely_a_constant() -> None:
    inputs = [*X, *ports("state"), *ports("sr", dims=(), dtype="int64")]
    with pytest.raises(ExportError, match=r"--constant sr=VALUE.*by their names: --state state:s"):
        pairs.find(inputs, [*Y, *ports("stateN")], {})


def test_elements_whose_name_pairs_too_are_asked_for() -> None:
    inputs = [*ports("audio_in"), *ports("state_in")]
    outputs = [*ports("audio_out"), *ports("state_out")]
    with pytest.raises(ExportError, match="none takes the elements"):
        pairs.find(inputs, outputs, {})
    given = {"state_in": "state_out"}
    assert pairs.find(inputs, outputs, given) == given


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"nope": "hn"}, "'nope' is no input of the graph; it has 'x', 'h'"),
        ({"h": "nope"}, "'nope' is no output of the graph; it has 'y', 'hn'"),
        ({"h": "y"}, r"h \[1, \?, 8\] of float32 can't take y \[\?, 5\] of float32"),
    ],
)
def test_pairs_that_can_not_be(given: dict[str, str], said: str) -> None:
    with pytest.raises(ExportError, match=said):
        pairs.find([*X, *ports("h")], [*Y, *ports("hn")], given)


def test_an_output_is_the_next_value_of_one_state_only() -> None:
    with pytest.raises(ExportError, match="next value of two states"):
        pairs.find([*X, *ports("h", "c")], [*Y, *ports("hn")], {"h": "hn", "c": "hn"})
