"""`elman inspect --horizon` says how far back a network remembers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

import elman_server
from elman_server.inspection.horizon import plot
from tests.server.cli.program import Result, Run
from tests.stepmodels import Shape, leaky, lstm, save, save_conditioned, tilted

BUNDLED = Path(elman_server.__file__).parent / "models"


def horizon(result: Result) -> Any:
    assert result.code == 0, result.err
    return json.loads(result.out)["horizon"]


def test_it_shows_how_far_back_a_network_remembers(elman: Run, tmp_path: Path) -> None:
    path = save(*leaky(), tmp_path / "leaky.onnx")
    result = elman("inspect", path, "--horizon", "--lags", "20")
    assert result.code == 0
    assert "horizon of y: 7 lags; from there on, influence is under 1 %" in result.out
    for lag, percent in ((0, "100.0"), (1, "50.0"), (2, "25.0"), (4, "6.25"), (8, "0.39")):
        assert f"{lag} {percent} % {percent} %" in result.words
    assert "input random input, 64 elements before the change" in result.words
    assert "change 256 times, each feature moved up or down by 0.1 of its" in result.words
    assert "influence difference over the output's standard deviation; 0.08" in result.words
    assert "20 < 0.01 % < 0.01 %" in result.words


def test_scripts_get_every_lag(elman: Run, tmp_path: Path) -> None:
    path = save(*leaky(), tmp_path / "leaky.onnx")
    found = horizon(elman("inspect", path, "--horizon", "--lags", "9", "--json"))
    [output] = found.pop("outputs")
    assert found == {
        "input": "random",
        "examples": None,
        "random_contexts": 0,
        "perturbation": "each feature moved up or down by 0.1 of its standard deviation in the "
        "sample",
        "rows": 256,
        "warm_up": 64,
        "lags": 9,
        "threshold": 0.01,
    }
    assert output["influence"] == pytest.approx([0.5**lag for lag in range(10)], rel=1e-3)
    assert (output["output"], output["horizon"], output["reference_lag"]) == ("y", 7, 0)


def test_it_measures_on_examples(elman: Run, letters: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 4)
    found = horizon(elman("inspect", letters, "--horizon", "--examples", text, "--json"))
    assert (found["input"], found["examples"]) == ("examples", str(text))
    assert found["lags"] == 143
    assert found["outputs"][0]["distance"] == "total variation"
    shown = elman("inspect", letters, "--horizon", "--examples", text, "--lags", "3")
    assert f"input {text}, 64 elements before the change" in shown.words


def test_max_is_as_far_as_the_examples_go(elman: Run, tmp_path: Path) -> None:
    path = save(*leaky(), tmp_path / "leaky.onnx")
    frames = tmp_path / "frames.npy"
    np.save(frames, np.random.default_rng(0).normal(size=(1000, 1)))
    arguments = ["inspect", path, "--horizon", "--json", "--examples", frames]
    assert horizon(elman(*arguments))["lags"] == 256
    assert horizon(elman(*arguments, "--lags", "max"))["lags"] == 799


def test_rows_that_affect_one_another_are_run_alone(elman: Run, tmp_path: Path) -> None:
    # Alone it is h + 2 x, which keeps everything; in a batch it would be more.
    path = save(*leaky(mixes_rows=True), tmp_path / "mixing.onnx")
    result = elman("inspect", path, "--horizon", "--lags", "4", "--json")
    [output] = horizon(result)["outputs"]
    assert output["influence"] == pytest.approx([1] * 5, rel=1e-3)
    assert horizon(result)["rows"] == 32


def test_contexts_are_random_and_said_to_be(elman: Run, tmp_path: Path) -> None:
    path = save_conditioned(tilted(), tmp_path / "tilted.onnx")
    result = elman("inspect", path, "--horizon", "--lags", "8", "--json")
    [output] = horizon(result)["outputs"]
    assert output["influence"] == pytest.approx([0.5**lag for lag in range(9)], rel=1e-2)
    assert horizon(result)["random_contexts"] == 8
    shown = elman("inspect", path, "--horizon", "--lags", "8")
    assert "contexts 8 random ones, taken in turn" in shown.words


def test_what_is_not_forgotten_is_beyond_the_last_lag(elman: Run, tmp_path: Path) -> None:
    path = save(*leaky(), tmp_path / "leaky.onnx")
    result = elman("inspect", path, "--horizon", "--lags", "3")
    assert (
        "horizon of y: beyond 3; at lag 3, 12.5 % of an element's influence is left" in result.out
    )


def test_the_weather_model_remembers_yesterday(elman: Run, tmp_path: Path) -> None:
    folder = BUNDLED / "weather"
    hours = np.loadtxt(folder / "holdout.csv", delimiter=",", skiprows=1, usecols=1)
    np.save(tmp_path / "hours.npy", hours)
    arguments = ["--horizon", "--examples", tmp_path / "hours.npy", "--lags", "72", "--json"]
    [output] = horizon(elman("inspect", folder / "1" / "model.onnx", *arguments))["outputs"]
    # The prediction is of the next hour: 23 hours back lies the same hour of the day before.
    later = output["influence"][10:]
    assert 10 + later.index(max(later)) == 23
    assert 24 < output["horizon"] < 48


@pytest.mark.parametrize("name", ["horizon.svg", "horizon.PNG"])
def test_it_draws_a_picture(name: str, elman: Run, letters: Path, tmp_path: Path) -> None:
    result = elman("inspect", letters, "--horizon", "--lags", "8", "--plot", tmp_path / name)
    assert result.code == 0
    content = (tmp_path / name).read_bytes()
    if name.endswith(".svg"):
        assert b"letters, on random input" in content
    else:
        assert content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lags", "8"], "--lags goes with --horizon"),
        (["--plot", "a.svg"], "--plot goes with --horizon"),
        (["--horizon", "--no-probe"], "--horizon needs the probe: leave out --no-probe"),
        (
            ["--horizon", "--plot", "a.pdf"],
            "--plot is 'a.pdf'; expected is a file that ends in .svg or .png",
        ),
        *(
            (
                ["--horizon", "--lags", lags],
                f"Invalid value for '--lags': {lags!r} is no lag; allowed are 1 to 4096 and max",
            )
            for lags in ("0", "4097", "-1", "all", "²")
        ),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, elman: Run, letters: Path
) -> None:
    result = elman("inspect", letters, *arguments)
    assert result.code == 2
    assert result.err == f"elman inspect: {message}\n"
    assert result.out == ""


def test_without_matplotlib_it_says_what_to_install(
    elman: Run, letters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    result = elman("inspect", letters, "--horizon", "--plot", "a.svg")
    assert result.code == 2
    assert result.err == "elman inspect: --plot needs the plot extra: pip install 'elman[plot]'\n"


def test_examples_that_do_not_fit_are_one_line_and_exit_code_1(
    elman: Run, letters: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_text("WHY?")
    result = elman("inspect", letters, "--horizon", "--examples", text)
    assert result.code == 1
    assert result.err.startswith(f"elman: {text}, character 0: character 'W' is not in the model's")
    assert result.err.count("\n") == 1


def test_a_step_that_fails_on_an_example_is_one_line_and_exit_code_1(
    elman: Run, tmp_path: Path
) -> None:
    # The probe's few random elements are of other characters than the one that it can't embed.
    characters = [chr(0x4E00 + index) for index in range(5000)]
    model, spec = lstm(Shape(vocabulary="".join(characters)))
    embed = next(node for node in model.graph.node if node.op_type == "Gather")
    places = np.arange(5000)
    places[2500] = 5000
    model.graph.initializer.append(numpy_helper.from_array(places, "places"))
    model.graph.node.insert(0, helper.make_node("Gather", ["places", "ids"], ["place"]))
    embed.input[1] = "place"
    path = save(model, spec, tmp_path / "model.onnx")
    text = tmp_path / "text"
    text.write_text("".join(characters[2450:2550]))
    result = elman("inspect", path, "--horizon", "--examples", text)
    assert result.code == 1
    assert result.err.startswith("elman: the network failed in the step from ")
    assert result.err.count("\n") == 1
