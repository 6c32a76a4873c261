"""Predictions as lines for people, and as JSON for scripts."""

import io
import json
from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
from rich.console import Console

from elman import Input, InputKind, Model, Output, OutputKind, Prediction, Raw, Top
from elman._wire.outputs import Frame, resolve
from elman.cli.bar import bar
from elman.cli.elements import Element
from elman.cli.show import View

FLOAT = np.dtype("<f4")
MODEL = Model(
    name="mixed",
    version="1",
    fingerprint="",
    description="",
    input=Input(
        kind=InputKind.FEATURES,
        dtype=FLOAT,
        shape=(2,),
        size=0,
        vocabulary=(),
        accepts_unknown=False,
    ),
    outputs=(
        Output(name="positive", kind=OutputKind.PROBABILITIES, dtype=FLOAT, shape=(), labels=()),
        Output(
            name="next", kind=OutputKind.LOGITS, dtype=FLOAT, shape=(3,), labels=("a", "b", "long")
        ),
        Output(name="level", kind=OutputKind.VALUES, dtype=FLOAT, shape=(), labels=()),
        Output(name="wide", kind=OutputKind.VALUES, dtype=FLOAT, shape=(10,), labels=()),
    ),
    state_bytes=0,
)
LETTER = Element(value="g", text="g")
VALUES = {
    "positive": np.array([0.75], FLOAT),
    "next": np.array([[0.625, 0.25]], FLOAT),
    "level": np.array([1.5], FLOAT),
    "wide": np.arange(10, dtype=FLOAT)[None],
}


def prediction(view: View) -> Prediction:
    """As the server answers what the view asks for."""
    names = [output.name for output in view.outputs]
    indices = [np.array([[2, 0]], "<u4") if name == "next" else None for name in names]
    layout = resolve(MODEL, view.choices())
    return Prediction(Frame(layout, 1, [VALUES[name] for name in names], indices), 0, 7)


def line(*names: str) -> str:
    view = View.of(MODEL, names, 2)
    return view.text(LETTER, prediction(view)).plain.rstrip()


def test_it_asks_for_no_more_than_it_shows() -> None:
    assert View.of(MODEL, ["next", "level"], 2).choices() == [Top("next", 2), Raw("level")]
    assert View.of(MODEL, ["next"], 50).choices() == [Top("next", 3)]


def test_without_names_it_shows_every_output() -> None:
    assert View.of(MODEL, [], 2).outputs == MODEL.outputs


def test_an_unknown_output_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(LookupError, match="'mixed' has no output 'nxt'; it has positive, next, le"):
        View.of(MODEL, ["nxt"], 2)


def test_a_scalar_probability_is_a_bar() -> None:
    assert line("positive") == f"'g'  {'█' * 18}{'░' * 6} 0.750"


def test_labelled_logits_are_their_best_alternatives() -> None:
    assert line("next") == "'g'  long 0.625  'a' 0.250"


def test_an_id_is_printed_bare_however_many_digits_it_has() -> None:
    view = View.of(MODEL, ["level"], 2)
    for number in (7, 39):
        line = view.text(Element(value=number, text=str(number)), prediction(view)).plain
        assert line.split() == [str(number), "1.5"]


def test_values_are_numbers() -> None:
    assert line("level") == "'g'  1.5"
    assert line("wide") == "'g'  0 1 2 3 4 5 6 7 and 2 more"


def test_several_outputs_are_named() -> None:
    assert line("level", "next") == "'g'  level 1.5  next long 0.625  'a' 0.250"


def test_json_holds_session_position_element_and_outputs() -> None:
    view = View.of(MODEL, [], 2)
    element = Element(value=np.array([1.0, 2.0]), text="1 2")
    assert json.loads(view.document(3, element, prediction(view))) == {
        "session": 3,
        "position": 7,
        "element": [1.0, 2.0],
        "outputs": {
            "positive": 0.75,
            "next": [
                {"label": "long", "probability": 0.625},
                {"label": "a", "probability": 0.25},
            ],
            "level": 1.5,
            "wide": list(range(10)),
        },
    }


def test_numbers_that_are_none_are_shown_as_such_and_are_valid_json() -> None:
    view = View.of(MODEL, ["positive", "next", "level"], 2)
    values = {
        "positive": np.array([nan], FLOAT),
        "next": np.array([[nan, 0.25]], FLOAT),
        "level": np.array([-inf], FLOAT),
    }
    layout = resolve(MODEL, view.choices())
    indices = [None, np.array([[2, 0]], "<u4"), None]
    sick = Prediction(Frame(layout, 1, list(values.values()), indices), 0, 7)
    shown = view.text(LETTER, sick).plain
    assert shown == f"'g'  positive {'░' * 24} nan  next long nan  'a' 0.250    level -inf"
    assert json.loads(view.document(0, LETTER, sick))["outputs"] == {
        "positive": "NaN",
        "next": [{"label": "long", "probability": "NaN"}, {"label": "a", "probability": 0.25}],
        "level": "-Infinity",
    }


def test_a_bar_gets_shorter_where_a_line_does_not_fit() -> None:
    view = View.of(MODEL, ["positive"], 2)
    plain = {
        width: view.text(LETTER, prediction(view), width).plain for width in (80, 35, 34, 15, 5)
    }
    assert plain[80] == plain[35] == f"'g'  {'█' * 18}{'░' * 6} 0.750"
    assert plain[34] == f"'g'  {'█' * 17}{'░' * 6} 0.750"
    assert plain[15] == "'g'  ███░ 0.750"
    assert plain[5] == "'g'  0.750"


def test_a_long_element_is_cut_on_a_terminal() -> None:
    view = View.of(MODEL, ["level"], 2)
    element = Element(value=np.zeros(50), text="0 " * 50)
    assert view.text(element, prediction(view), 80).plain == f"{('0 ' * 50)[:23]}… 1.5"
    assert view.text(element, prediction(view)).plain.startswith(element.text)


def test_entries_of_a_token_models_output_have_its_names() -> None:
    words = replace(MODEL.input, kind=InputKind.TOKENS, vocabulary=("<start>", "tea", "\x1b[2J"))
    plain = replace(MODEL.outputs[1], labels=())
    view = View.of(replace(MODEL, input=words, outputs=(plain,)), ["next"], 2)
    layout = resolve(replace(MODEL, outputs=(plain,)), view.choices())
    values, indices = [np.array([[0.5, 0.25]], FLOAT)], [np.array([[1, 2]], "<u4")]
    shown = view.text(LETTER, Prediction(Frame(layout, 1, values, indices), 0, 0)).plain
    assert shown == "'g'  tea 0.500  '\\x1b[2J' 0.250"


@pytest.mark.parametrize(
    ("probability", "full"), [(0, 0), (0.5, 12), (0.99, 24), (1, 24), (nan, 0), (inf, 24), (-1, 0)]
)
def test_a_bar_is_as_full_as_it_is_probable(probability: float, full: int) -> None:
    assert bar(probability).plain == "█" * full + "░" * (24 - full)


def test_a_bar_has_colours_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def printed(*, terminal: bool) -> str:
        file = io.StringIO()
        Console(file=file, force_terminal=terminal, legacy_windows=False).print(bar(0.5))
        return file.getvalue()

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in printed(terminal=True)
    assert "\x1b" not in printed(terminal=False)
