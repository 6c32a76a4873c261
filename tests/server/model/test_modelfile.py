"""A step model's file is read whole and unchanged, or refused."""

import base64
import os
import socket
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from elman_server.model import modelfile
from elman_server.model.modelfile import ModelFileError
from elman_server.model.spec import FINGERPRINT_KEY, INITIAL_KEY, SPEC_KEY
from tests import stepmodels


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stepmodels.save(*stepmodels.leaky(), tmp_path_factory.mktemp("models") / "leaky.onnx")


def refused(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        modelfile.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def changed(path: Path, folder: Path, **metadata: str) -> Path:
    """The same model with other metadata, None for entries that are taken out."""
    model = onnx.load(path)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, {**kept, **metadata})
    (folder / "changed.onnx").write_bytes(model.SerializeToString())
    return folder / "changed.onnx"


def test_a_step_model_is_read_with_its_spec_and_fingerprint(path: Path) -> None:
    model, spec = stepmodels.leaky()
    file = modelfile.read(path)
    assert file.spec == spec
    assert file.fingerprint == modelfile.fingerprint(model.SerializeToString(), spec.to_json())
    assert len(file.fingerprint) == 64


def test_the_fingerprint_knows_the_weights_and_the_spec() -> None:
    shapes = [
        stepmodels.Shape(hidden=4),
        stepmodels.Shape(hidden=4, seed=1),
        stepmodels.Shape(hidden=4, initial=(0.5,) * 4),
    ]
    prints = set()
    for shape in shapes:
        model, spec = stepmodels.lstm(shape)
        prints.add(modelfile.fingerprint(model.SerializeToString(), spec.to_json()))
    assert len(prints) == 3


def test_the_fingerprint_knows_nothing_of_who_wrote_the_file(path: Path, tmp_path: Path) -> None:
    model = onnx.load(path)
    model.producer_name = "somebody else"
    (tmp_path / "same.onnx").write_bytes(model.SerializeToString())
    assert modelfile.read(tmp_path / "same.onnx").fingerprint == modelfile.read(path).fingerprint


# With an initial-state network.


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tilted.onnx"
    return stepmodels.save_conditioned(stepmodels.tilted(), path)


def test_an_initial_state_network_is_read_with_its_model(conditioned: Path, path: Path) -> None:
    initial = stepmodels.tilted()[2].SerializeToString()
    assert modelfile.read(conditioned).initial == initial
    assert modelfile.read(path).initial is None


def test_the_fingerprint_knows_the_initial_state_network(conditioned: Path) -> None:
    model, spec, initial = stepmodels.tilted()
    parts = model.SerializeToString(), spec.to_json()
    before = modelfile.fingerprint(*parts, initial.SerializeToString())
    assert modelfile.read(conditioned).fingerprint == before
    initial.producer_name = "somebody else"
    assert modelfile.fingerprint(*parts, initial.SerializeToString()) == before
    initial.graph.node[0].op_type = "Mul"
    assert modelfile.fingerprint(*parts, initial.SerializeToString()) != before
    assert modelfile.fingerprint(*parts) != before


def test_another_initial_state_network_under_the_same_fingerprint_is_refused(
    conditioned: Path, tmp_path: Path
) -> None:
    other = stepmodels.tilted()[2]
    other.graph.node[0].op_type = "Mul"
    text = base64.b64encode(other.SerializeToString()).decode()
    altered = changed(conditioned, tmp_path, **{INITIAL_KEY: text})
    assert refused(altered).endswith("it was changed after its export")


def test_a_file_without_the_initial_state_network_that_its_spec_names_is_refused(
    tmp_path: Path,
) -> None:
    model, spec, _ = stepmodels.tilted()
    assert refused(stepmodels.save(model, spec, tmp_path / "model.onnx")) == (
        f"no {INITIAL_KEY!r} in its metadata, though its spec's `initialized` names h"
    )


def test_an_initial_state_network_that_the_spec_does_not_name_is_refused(tmp_path: Path) -> None:
    model, spec, initial = stepmodels.tilted()
    spec = replace(spec, initialized=(), contexts=spec.step_contexts)
    assert refused(stepmodels.save(model, spec, tmp_path / "model.onnx", initial)) == (
        f"{INITIAL_KEY!r} is in its metadata, but its spec's `initialized` names no state"
    )


@pytest.mark.parametrize("text", ["nonsense!", "bm8gbW9kZWw=", "\u00e9"])
def test_an_initial_state_network_that_is_no_onnx_file_is_refused(
    text: str, conditioned: Path, tmp_path: Path
) -> None:
    broken = changed(conditioned, tmp_path, **{INITIAL_KEY: text})
    assert refused(broken) == f"{INITIAL_KEY!r} is no ONNX file in base64"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere.onnx") == "No such file or directory"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path) == "is a folder, no ordinary file"


def test_an_onnx_file_without_a_spec_is_no_step_model(tmp_path: Path) -> None:
    (tmp_path / "plain.onnx").write_bytes(stepmodels.leaky()[0].SerializeToString())
    assert refused(tmp_path / "plain.onnx") == (
        f"no {SPEC_KEY!r} in its metadata, so no step model yet; make one with "
        "`elman export plain.onnx`, see docs/export.md"
    )


def test_the_proof_that_an_export_kept_can_be_read(path: Path, tmp_path: Path) -> None:
    kept = changed(path, tmp_path, **{modelfile.PROOF_KEY: '{"elements": 3}'})
    assert modelfile.read(kept).fingerprint == modelfile.read(path).fingerprint
    assert modelfile.read(kept).proof == '{"elements": 3}'
    assert modelfile.read(path).proof is None


def test_a_wrong_spec_is_refused(path: Path, tmp_path: Path) -> None:
    broken = changed(path, tmp_path, **{SPEC_KEY: "{}"})
    assert refused(broken).startswith(f"{SPEC_KEY}: input: Field required; ")


def test_another_spec_under_the_same_fingerprint_is_refused(path: Path, tmp_path: Path) -> None:
    text = modelfile.read(path).spec.to_json().replace('"description": ""', '"description": "!"')
    assert refused(changed(path, tmp_path, **{SPEC_KEY: text})).endswith(
        "it was changed after its export"
    )


def test_other_weights_under_the_same_fingerprint_are_refused(path: Path, tmp_path: Path) -> None:
    model = onnx.load(path)
    model.graph.initializer[0].raw_data = bytes(4)
    (tmp_path / "altered.onnx").write_bytes(model.SerializeToString())
    assert refused(tmp_path / "altered.onnx").endswith("it was changed after its export")


def test_a_file_without_a_fingerprint_is_refused(path: Path, tmp_path: Path) -> None:
    model = onnx.load(path)
    helper.set_model_props(model, {SPEC_KEY: modelfile.read(path).spec.to_json()})
    (tmp_path / "bare.onnx").write_bytes(model.SerializeToString())
    assert refused(tmp_path / "bare.onnx").startswith(f"{FINGERPRINT_KEY} is None, but ")


def test_a_file_that_was_cut_off_anywhere_is_refused(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    cut = tmp_path / "cut.onnx"
    for length in range(0, len(whole), 7):
        cut.write_bytes(whole[:length])
        refused(cut)


@given(data=st.binary(max_size=300))
def test_garbage_is_refused(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    garbage = tmp_path_factory.getbasetemp() / "garbage.onnx"
    garbage.write_bytes(data)
    refused(garbage)


@pytest.mark.parametrize("name", ["path", "conditioned"])
@given(data=st.data())
def test_a_file_with_one_byte_changed_is_refused_or_the_same_model(
    name: str,
    data: st.DataObject,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path: Path = request.getfixturevalue(name)
    whole = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    flipped = tmp_path_factory.getbasetemp() / "flipped.onnx"
    flipped.write_bytes(whole)
    try:
        found = modelfile.read(flipped)
    except ModelFileError:
        return
    assert (found.spec, found.fingerprint) == (
        modelfile.read(path).spec,
        modelfile.read(path).fingerprint,
    )


def test_what_is_no_ordinary_file_is_neither_waited_for_nor_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "zeros.onnx").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.onnx"))
        for name in ("pipe", "zeros"):
            assert refused(tmp_path / f"{name}.onnx") == (
                "is a pipe, a socket or a device, no ordinary file"
            )
        assert "No such device" in refused(tmp_path / "socket.onnx")


def test_a_file_of_holes_is_refused_for_its_size(tmp_path: Path) -> None:
    path = tmp_path / "holes.onnx"
    with open(path, "wb") as file:
        file.truncate(20 * 2**30)
    assert refused(path) == "has 21,474,836,480 bytes; allowed are 2,147,483,647"
