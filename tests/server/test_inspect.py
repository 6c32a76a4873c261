"""`elman inspect` shows a step model's spec, its proof, how it is batched and what it remembers."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import elman_server
from elman.cli import main
from elman_server.cli import trial
from elman_server.horizon import plot
from elman_server.modelfile import PROOF_KEY, fingerprint
from elman_server.spec import (
    FINGERPRINT_KEY,
    INITIAL_KEY,
    SPEC_KEY,
    ContextSpec,
    InputKind,
    InputSpec,
    ModelSpec,
    OutputKind,
    OutputSpec,
    StateSpec,
)
from tests.server.runner.oddmodels import one_row_only
from tests.stepmodels import Shape, leaky, lstm, save, save_conditioned, save_lstm, tilted


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    code: int | str | None
    out: str
    err: str

    @property
    def words(self) -> str:
        """What was printed, without the tables' lines."""
        return " ".join(self.out.replace("│", " ").split())


Run = Callable[..., Result]

BUNDLED = Path(elman_server.__file__).parent / "models"

SPEC = ModelSpec(
    description="Letters of nonsense.",
    input=InputSpec(
        name="ids",
        kind=InputKind.TEXT,
        dtype="int64",
        size=20,
        vocabulary=tuple("abcdefghij\nlmnopqrst"),
    ),
    outputs=(
        OutputSpec(
            name="next", kind=OutputKind.LOGITS, dtype="float32", shape=(3,), labels=("x", "y", "z")
        ),
        OutputSpec(name="level", kind=OutputKind.VALUES, dtype="float32"),
    ),
    states=(
        StateSpec(
            name="h", input="h_in", output="h_out", dtype="float32", shape=(1, 4), batch_axis=1
        ),
        StateSpec(
            name="c",
            input="c_in",
            output="c_out",
            dtype="float32",
            shape=(2,),
            batch_axis=0,
            initial=(-0.5, 1.0),
        ),
    ),
    time_axis=True,
    lengths="lengths",
)

PROOF = {
    "comparisons": [
        {"output": "next", "input": "random", "way": "whole", "maximum": 2e-7, "exact": True},
        {"output": "next", "input": "random", "way": "alone", "maximum": 3e-7, "exact": False},
    ],
    "differences": [],
    "elements": 269,
    "seed": 0,
}


@pytest.fixture
def elman(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `elman` in this process."""

    def run(*args: str | Path) -> Result:
        with pytest.raises(SystemExit) as exit_:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Result(code=exit_.value.code or 0, out=captured.out, err=captured.err)

    return run


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def hollow(tmp_path: Path) -> Path:
    """A file whose graph is empty and whose spec is `SPEC`."""
    return hollow_with(SPEC, tmp_path / "hollow.onnx")


def hollow_with(spec: ModelSpec, path: Path, **metadata: str) -> Path:
    proto = onnx.ModelProto(graph=onnx.GraphProto(name="step"))
    initial = b"" if spec.initialized else None
    if initial is not None:
        metadata = {INITIAL_KEY: "", **metadata}
    sealed = fingerprint(proto.SerializeToString(), spec.to_json(), initial)
    onnx.helper.set_model_props(
        proto, {SPEC_KEY: spec.to_json(), FINGERPRINT_KEY: sealed, **metadata}
    )
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    return save_lstm(tmp_path / "letters" / "1" / "model.onnx")


# The spec.


def test_it_shows_everything_that_the_spec_says(elman: Run, hollow: Path) -> None:
    result = elman("inspect", hollow, "--no-probe")
    assert result.code == 0
    for text in (
        "Letters of nonsense.",
        "ids: text, int64[], 20 ids",
        r"'a' 'b' 'c' 'd' 'e' 'f' 'g' 'h' 'i' 'j' '\n' 'l' and 8 more",
        "next: logits, float32[3]",
        "labels 'x' 'y' 'z'",
        "level: values, float32[]",
        "h: h_out -> h_in, float32[1, 4], batch axis 1, starts as zeros",
        "c: c_out -> c_in, float32[2], batch axis 0, starts as 2 values in -0.5 to 1",
        "24 a session",
        "ragged, by lengths",
        f"{hollow.stat().st_size:,} bytes",
    ):
        assert text in result.out
    assert "\x1b" not in result.out


def test_it_shows_contexts_and_the_states_that_come_from_them(elman: Run, tmp_path: Path) -> None:
    contexts = (
        ContextSpec(name="speaker", dtype="float32", shape=(4,), input="speaker_in"),
        ContextSpec(name="picture", dtype="float32", shape=(8, 8)),
    )
    spec = replace(SPEC, contexts=contexts, initialized=("h",))
    result = elman("inspect", hollow_with(spec, tmp_path / "model.onnx"), "--no-probe")
    for text in (
        "speaker: float32[4], given once at open, to speaker_in at every step",
        "picture: float32[8, 8], given once at open, for the initial states",
        "batch axis 1, starts as what the initial-state network gives",
    ):
        assert text in result.out


def test_brackets_and_colons_in_a_spec_are_shown_as_they_are(elman: Run, tmp_path: Path) -> None:
    spec = replace(SPEC, description="[bold]Letters[/nonsense] :cat:")
    result = elman("inspect", hollow_with(spec, tmp_path / "model.onnx"), "--no-probe")
    assert "[bold]Letters[/nonsense] :cat:" in result.out


def test_it_prints_json_for_scripts(elman: Run, hollow: Path) -> None:
    document = json.loads(elman("inspect", hollow, "--json", "--no-probe").out)
    assert ModelSpec.from_json(json.dumps(document["spec"])) == SPEC
    assert document["path"] == str(hollow)
    assert document["file_bytes"] == hollow.stat().st_size
    assert document["state_bytes"] == 24
    assert len(document["fingerprint"]) == 64
    assert (document["batching"], document["proof"]) == (None, None)


def test_something_else_is_one_line_and_exit_code_1(elman: Run, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("a picture of a cat")
    result = elman("inspect", path)
    assert result.code == 1
    assert result.err.startswith(f"elman: {path}: ")
    assert result.err.count("\n") == 1


def test_a_graph_without_a_spec_is_sent_to_the_export(elman: Run, tmp_path: Path) -> None:
    path = tmp_path / "whole.onnx"
    path.write_bytes(leaky()[0].SerializeToString())
    result = elman("inspect", path)
    assert result.code == 1
    assert "make one with `elman export whole.onnx`, see docs/export.md" in result.err


# The probe.


def test_help_says_that_it_looks_for_rows_that_affect_one_another(elman: Run) -> None:
    words = " ".join(elman("inspect", "--help").out.split())
    assert "whether rows of a batch affect one another" in words
    assert "--no-probe" in words


def test_it_says_that_rows_are_independent(elman: Run, letters: Path) -> None:
    result = elman("inspect", letters)
    assert "batching rows are independent: in batches of up to 256 each gives," in result.words
    assert "chunking ragged: up to 32 elements of a session in one step" in result.words
    assert json.loads(elman("inspect", letters, "--json").out)["batching"] == {
        "batched": True,
        "dependent_rows": "",
        "batch_failure": "",
        "max_batch_size": 256,
        "chunking": "ragged",
        "max_chunk": 32,
    }


def test_it_says_why_a_model_is_served_unbatched(elman: Run, tmp_path: Path) -> None:
    mixing = save(*leaky(mixes_rows=True), tmp_path / "mixing.onnx")
    result = elman("inspect", mixing)
    assert result.code == 0
    assert (
        "batching served unbatched, as rows affect one another: in a batch of 2 results differ "
        "from those alone by "
    ) in result.words
    found = json.loads(elman("inspect", mixing, "--json").out)["batching"]
    assert (found["batched"], found["max_batch_size"]) == (False, 1)
    assert found["dependent_rows"].startswith("in a batch of 2 results differ")


def test_it_says_that_a_graph_takes_one_row_only(elman: Run, tmp_path: Path) -> None:
    path = save(*one_row_only(), tmp_path / "single.onnx")
    result = elman("inspect", path)
    assert "served unbatched, as it takes one row at a time: a batch of 2 failed" in result.words
    assert "chunking single: one element a step" in result.words


@pytest.mark.parametrize(
    ("shape", "chunking"),
    [
        (Shape(lengths=False), "equal: up to 32 elements of a session in one step, as many for"),
        (Shape(lengths=False, time_axis=False), "single: one element a step"),
    ],
)
def test_it_says_how_elements_are_chunked(
    shape: Shape, chunking: str, elman: Run, tmp_path: Path
) -> None:
    result = elman("inspect", save(*lstm(shape), tmp_path / "model.onnx"))
    assert f"chunking {chunking}" in result.words


def test_a_model_that_cannot_be_served_is_shown_with_the_reason(elman: Run, hollow: Path) -> None:
    for json_ in ([], ["--json"]):
        result = elman("inspect", hollow, *json_)
        assert result.code == 1
        assert "Letters of nonsense." in result.out
        assert result.err.startswith(f"elman: {hollow}: ")
        assert result.err.count("\n") == 1
    assert json.loads(result.out)["batching"]["error"] in result.err


def test_the_fingerprint_comes_before_the_probe(elman: Run, letters: Path) -> None:
    model = onnx.load(letters)
    model.graph.name = "another"
    letters.write_bytes(model.SerializeToString())
    result = elman("inspect", letters)
    assert result.code == 1
    assert "it was changed after its export" in result.err
    assert result.out == ""


def test_without_a_runtime_it_says_what_to_install(
    elman: Run, letters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "find_spec", lambda name: None)
    needs = "needs the server extra: pip install 'elman[server]'"
    result = elman("inspect", letters)
    assert result.code == 0
    assert f"batching not probed: {needs}" in result.words
    assert elman("inspect", letters, "--horizon").err == f"elman inspect: --horizon {needs}\n"


# The proof.


def test_it_shows_the_proof_that_the_export_kept(elman: Run, tmp_path: Path) -> None:
    path = hollow_with(SPEC, tmp_path / "model.onnx", **{PROOF_KEY: json.dumps(PROOF)})
    result = elman("inspect", path, "--no-probe")
    assert "next random whole 2.0e-07 yes next random alone 3.0e-07 no" in result.words
    assert "What the export compared, 269 elements in each way: " in result.words
    assert json.loads(elman("inspect", path, "--no-probe", "--json").out)["proof"] == PROOF


@pytest.mark.parametrize(
    ("proof", "message"),
    [
        ("no JSON", "proof: Invalid JSON"),
        ("[]", "proof: "),
        (json.dumps({**PROOF, "comparisons": [{"output": 7}]}), "comparisons.0."),
    ],
)
def test_a_proof_that_is_none_is_one_line(
    proof: str, message: str, elman: Run, tmp_path: Path
) -> None:
    path = hollow_with(SPEC, tmp_path / "model.onnx", **{PROOF_KEY: proof})
    result = elman("inspect", path, "--no-probe")
    assert result.code == 1
    assert result.err.startswith(f"elman: {path}: {PROOF_KEY}: {message}")
    assert result.err.count("\n") == 1


# The horizon.


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
