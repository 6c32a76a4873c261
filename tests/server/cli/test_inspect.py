"""`elman inspect` shows a step model's spec, its proof, and how it is batched."""

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnxruntime.quantization import quantize_dynamic

from elman_server.inspection import trial
from elman_server.model.modelfile import PROOF_KEY, fingerprint, read
from elman_server.model.spec import (
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
from tests.server.cli.program import Run
from tests.server.runner.oddmodels import one_row_only
from tests.stepmodels import Shape, leaky, lstm, save, save_conditioned, tilted

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


def test_it_names_the_character_that_stands_for_others(elman: Run, tmp_path: Path) -> None:
    spec = replace(SPEC, input=replace(SPEC.input, unknown=2))
    result = elman("inspect", hollow_with(spec, tmp_path / "model.onnx"), "--no-probe")
    assert "20 ids, unknown characters become 'c'" in result.out


def test_first_states_of_one_value_are_told_by_that_value(elman: Run, tmp_path: Path) -> None:
    states = (SPEC.states[0], replace(SPEC.states[1], initial=(128.0, 128.0)))
    spec = replace(SPEC, states=states)
    result = elman("inspect", hollow_with(spec, tmp_path / "model.onnx"), "--no-probe")
    assert "batch axis 0, starts as all 128" in result.out


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


def test_it_finds_that_onnx_runtimes_own_quantization_mixes_rows(
    elman: Run, letters: Path, tmp_path: Path
) -> None:
    # One scale is taken over the whole batch.
    spec = read(letters).spec
    quantize_dynamic(letters, tmp_path / "int8.onnx", op_types_to_quantize=["LSTM"])
    path = save(onnx.load(tmp_path / "int8.onnx"), spec, tmp_path / "model.onnx")
    result = elman("inspect", path)
    assert "served unbatched, as rows affect one another: in a batch of" in result.words


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


def test_contexts_that_a_server_would_refuse_are_refused(elman: Run, tmp_path: Path) -> None:
    path = save_conditioned(tilted(width=600_000), tmp_path / "model.onnx")
    result = elman("inspect", path)
    assert result.code == 1
    assert result.err == (
        f"elman: {path}: a session's contexts take 4800000 bytes; with max_message_bytes 4194304, "
        "allowed are 4193280\n"
    )


def test_large_contexts_are_tried_in_the_batches_of_a_server(elman: Run, tmp_path: Path) -> None:
    path = save_conditioned(tilted(width=40_000), tmp_path / "model.onnx")
    result = elman("inspect", path)
    assert "batching rows are independent: in batches of up to 69 each gives," in result.words


def test_a_spec_that_no_machine_has_room_for_is_one_line(elman: Run, tmp_path: Path) -> None:
    model, spec = leaky()
    huge = replace(spec.states[0], shape=(2**31 - 1, 2**31 - 1))
    path = save(model, replace(spec, states=(huge,)), tmp_path / "model.onnx")
    result = elman("inspect", path)
    assert result.code == 1
    [line] = result.err.splitlines()
    assert line.startswith(f"elman: {path}: ValueError: array is too big;")


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
