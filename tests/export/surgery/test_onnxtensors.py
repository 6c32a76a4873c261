"""Constants have the values that their shapes say, from the model's own folder or from nowhere."""

import os
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto

from elman_export.original import onnxfile
from tests.export.onnxfiles import (
    Write,
    adding,
    external,
    model,
    opened_files,
    refusal,
    writer,
)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)


# Values in other files.


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../secret", "sub/../../secret", "..", "a/../../given/../secret"],
)
def test_values_outside_of_the_models_folder_are_not_read(
    write: Write, location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    path = write(adding(external(location, dims=(4,))))
    with opened_files(monkeypatch) as seen:
        message = refusal(path)
    assert message == (
        f"constant 'w': its values lie in {location!r}; allowed is a file in the model's own folder"
    )
    assert seen == [str(path)]


@pytest.mark.parametrize("link", ["w.bin", "sub"])
def test_links_that_lead_out_of_the_models_folder_are_not_followed(
    write: Write, link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "w.bin").write_bytes(bytes(16))
    location = "w.bin" if link == "w.bin" else "sub/w.bin"
    path = write(adding(external(location)))
    target = "outside/w.bin" if link == "w.bin" else "outside"
    (path.parent / link).symlink_to(tmp_path / target)
    with opened_files(monkeypatch) as seen:
        assert refusal(path).endswith("which leads out of the model's own folder")
    assert seen == [str(path)]


def test_addresses_of_memory_are_no_files(write: Write) -> None:
    location = "*/_ORT_MEM_ADDR_/*"
    assert "No such file" in refusal(write(adding(external(location, offset=140737488355328))))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"offset": 1}, "at 1 to 17; that file has 16 bytes"),
        ({"offset": 2**63}, "that file has 16 bytes"),
        ({"length": 17}, "17 bytes; its shape [1, 4] takes 16"),
        ({"offset": -1}, "the offset of its values is '-1'; it must be a number of bytes"),
        ({"length": 10**30}, "it must be a number of bytes"),
    ],
)
def test_values_beyond_the_end_of_their_file(
    write: Write, entries: dict[str, Any], reason: str
) -> None:
    path = write(adding(external("w.bin", **entries)))
    (path.parent / "w.bin").write_bytes(bytes(16))
    assert reason in refusal(path)


def test_values_in_a_pipe_are_not_waited_for(write: Write) -> None:
    path = write(adding(external("w.bin")))
    os.mkfifo(path.parent / "w.bin")
    assert "no ordinary file" in refusal(path)


def test_values_that_lie_nowhere(write: Write) -> None:
    assert "does not say where" in refusal(write(adding(external(""))))


# Shapes.


@pytest.mark.parametrize("dims", [(2**31, 2**31), (2**62,), (2**30, 4), (-1, -4)])
def test_constants_of_absurd_shapes(write: Write, dims: tuple[int, ...]) -> None:
    absurd = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(16))
    message = refusal(write(adding(absurd)))
    assert message.startswith(f"constant 'w': its shape {'is ' if dims[0] < 0 else ''}{list(dims)}")
    outside = external("w.bin", dims=dims)
    assert refusal(write(adding(outside))).startswith("constant 'w': its shape")


@pytest.mark.parametrize("size", [0, 15, 17])
def test_constants_with_other_values_than_their_shape_says(write: Write, size: int) -> None:
    constant = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=(1, 4), raw_data=bytes(size))
    assert refusal(write(adding(constant))) == (
        f"constant 'w': its shape [1, 4] takes 16 bytes; it has {size}"
    )


def test_constants_with_other_numbers_than_their_shape_says(write: Write) -> None:
    constant = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=(1, 4), float_data=[1.0, 2.0]
    )
    assert "takes 4 values; it has 2" in refusal(write(adding(constant)))


def test_constants_of_a_type_that_is_none(write: Write) -> None:
    constant = TensorProto(name="w", data_type=99, dims=(1, 4), raw_data=bytes(16))
    assert "its type 99 is none of ONNX's" in refusal(write(adding(constant)))


def test_inputs_of_absurd_shapes(write: Write) -> None:
    made = model()
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**62
    assert "input 'x' is declared as [4611686018427387904, 4]" in refusal(write(made))


def test_the_files_of_a_cache_are_links_into_one_folder(write: Write, tmp_path: Path) -> None:
    """As those of Hugging Face, which most large models come in."""
    path = write(adding(external("w.bin", dims=(4,))))
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    path.rename(blobs / "1111")
    (blobs / "2222").write_bytes(b"0123456789abcdef")
    (snapshot / "model.onnx").symlink_to("../../blobs/1111")
    (snapshot / "w.bin").symlink_to("../../blobs/2222")
    found = onnxfile.load(snapshot / "model.onnx")
    assert b"0123456789abcdef" in found.SerializeToString()
