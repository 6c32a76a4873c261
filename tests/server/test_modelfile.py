"""A step model's file is read whole and unchanged, or refused."""

from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from elman_server import modelfile
from elman_server.modelfile import ModelFileError
from elman_server.spec import FINGERPRINT_KEY, SPEC_KEY
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


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere.onnx") == "No such file or directory"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path) == "Is a directory"


def test_an_onnx_file_without_a_spec_is_no_step_model(tmp_path: Path) -> None:
    (tmp_path / "plain.onnx").write_bytes(stepmodels.leaky()[0].SerializeToString())
    assert refused(tmp_path / "plain.onnx") == (
        f"no {SPEC_KEY!r} in its metadata, so no step model yet; make one with "
        "`elman export plain.onnx`, see docs/export.md"
    )


def test_the_proof_that_an_export_kept_can_be_read(path: Path, tmp_path: Path) -> None:
    kept = changed(path, tmp_path, **{modelfile.PROOF_KEY: '{"elements": 3}'})
    assert modelfile.read(kept).fingerprint == modelfile.read(path).fingerprint
    assert modelfile.proof(kept) == '{"elements": 3}'
    assert modelfile.proof(path) is None


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


@given(data=st.data())
def test_a_file_with_one_byte_changed_is_refused_or_the_same_model(
    path: Path, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
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
