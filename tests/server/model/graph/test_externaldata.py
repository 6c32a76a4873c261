"""Constants outside of a model's file come from its own folder, wherever in the model they stand,
or the file is refused."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from elman_server.model import modelfile
from elman_server.model.modelfile import ModelFileError
from elman_server.model.spec import FINGERPRINT_KEY, SPEC_KEY
from elman_server.runner.model import StepModel
from tests import stepmodels

VALUES = np.array([1, 2, 3, 4], np.float32)


def outside(location: str, **more: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1, 4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "16", **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def adding(place: str, tensor: TensorProto, path: Path) -> Path:
    """A step model that adds the constant to what it answers, `y = 0.5 h + x + w`."""
    model, spec = stepmodels.leaky(width=4)
    graph = model.graph
    initial: onnx.ModelProto | None = None
    graph.node[-1].CopyFrom(helper.make_node("Add", ["h_next", "w"], ["y"]))
    constant = helper.make_node("Constant", [], ["w"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    match place:
        case "initializer":
            graph.initializer.append(tensor)
        case "constant":
            graph.node.insert(0, constant)
        case "sparse":
            tensor.dims[:] = [4]
            sparse = onnx.SparseTensorProto(dims=[1, 4])
            sparse.values.CopyFrom(tensor)
            sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(4), "places"))
            graph.sparse_initializer.append(sparse)
        case "subgraph":
            graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
            value = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
            inner = helper.make_graph(
                [helper.make_node("Identity", ["w"], ["o"])], "g", [], [value], [tensor]
            )
            graph.node[-1].input[1] = "chosen"
            node = helper.make_node("If", ["yes"], ["chosen"], then_branch=inner, else_branch=inner)
            graph.node.insert(0, node)
        case "function":
            opsets = [helper.make_opsetid("", 17)]
            model.functions.append(helper.make_function("f", "Own", [], ["w"], [constant], opsets))
            graph.node.insert(0, helper.make_node("Own", [], ["w"], domain="f"))
            model.opset_import.append(helper.make_opsetid("f", 1))
        case "initial network":
            model, spec, initial = stepmodels.tilted(width=4)
            initial.graph.node[-1].output[0] = "before"
            initial.graph.node.append(helper.make_node("Add", ["before", "w"], ["h"]))
            initial.graph.initializer.append(tensor)
    return stepmodels.save(model, spec, path / "model.onnx", initial)


PLACES = ("initializer", "constant", "sparse", "subgraph", "function", "initial network")


def refused(path: Path, **options: int) -> str:
    with pytest.raises(ModelFileError) as caught:
        modelfile.read(path, **options)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("place", PLACES)
def test_a_constant_beside_the_model_is_read_with_it(place: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    file = modelfile.read(adding(place, outside("w.bin"), tmp_path))
    (tmp_path / "w.bin").unlink()
    model = StepModel(file, threads=1, providers=("CPUExecutionProvider",))
    states = [np.zeros((1, 4), np.float32)]
    if file.initial is not None:
        shape = {each.name: (1, *each.shape) for each in file.spec.contexts}
        states = model.begin({name: np.zeros(dims, np.float32) for name, dims in shape.items()})
        assert (states[0] == VALUES).all()
        return
    outputs, _ = model.step(np.ones((1, 1, 4), np.float32), None, states, ["y"])
    assert (outputs["y"][0, 0] == 1 + VALUES).all()


OUTSIDE: dict[str, Callable[[Path], str]] = {
    "an absolute path": lambda folder: str(folder / "secret.bin"),
    "a way up": lambda folder: "../secret.bin",
    "a way down and up": lambda folder: "down/../../secret.bin",
    "a link": lambda folder: "link.bin",
    "a folder that is a link": lambda folder: "up/secret.bin",
    "no place at all": lambda folder: "",
    "an address in memory": lambda folder: "*/_ORT_MEM_ADDR_/*",
    "a pipe": lambda folder: "pipe",
    "a device": lambda folder: "zero",
    "a file that is too short": lambda folder: "short.bin",
}


@pytest.mark.parametrize("what", OUTSIDE)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_not_an_ordinary_file_of_the_models_folder_is_not_read(
    place: str, what: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(VALUES.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "up").symlink_to(tmp_path)
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "short.bin").write_bytes(bytes(15))
    os.mkfifo(folder / "pipe")
    location = OUTSIDE[what](tmp_path)
    message = refused(adding(place, outside(location), folder))
    assert message.startswith("constant 'w': its values lie ")
    assert "\n" not in message


def test_the_files_of_a_cache_are_links_into_one_folder(tmp_path: Path) -> None:
    """As those of Hugging Face."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    adding("initializer", outside("w.bin"), tmp_path).rename(blobs / "1111")
    (blobs / "2222").write_bytes(VALUES.tobytes())
    (snapshot / "model.onnx").symlink_to("../../blobs/1111")
    (snapshot / "w.bin").symlink_to("../../blobs/2222")
    assert VALUES.tobytes() in modelfile.read(snapshot / "model.onnx").model


def test_a_field_that_stands_twice_is_one(tmp_path: Path) -> None:
    """Protobuf joins what it finds of one message, so that no part of it says enough."""
    whole = outside("/etc/passwd")
    first, second = TensorProto(data_location=TensorProto.EXTERNAL), TensorProto()
    second.CopyFrom(whole)
    second.ClearField("data_location")
    path = adding("constant", whole, tmp_path)

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    def attribute(*tensors: TensorProto) -> bytes:
        values = b"".join(field(5, tensor.SerializeToString()) for tensor in tensors)
        return b"".join([field(1, b"value"), b"\xa0\x01\x04", values])

    for parts in ((first, second), (second, first)):
        node = onnx.NodeProto.FromString(field(5, attribute(*parts)))
        assert node.attribute[0].t == whole
        model = onnx.load(path, load_external_data=False)
        # As it stands in the file, not as onnx would write it.
        graph = b"".join(
            [
                model.graph.SerializeToString(),
                field(1, field(2, b"v") + field(4, b"Constant") + field(5, attribute(*parts))),
            ]
        )
        model.ClearField("graph")
        data = model.SerializeToString() + _long_field(7, graph)
        spec = next(each.value for each in model.metadata_props if each.key == SPEC_KEY)
        old = next(each.value for each in model.metadata_props if each.key == FINGERPRINT_KEY)
        data = data.replace(old.encode(), modelfile.fingerprint(data, spec).encode())
        (tmp_path / "twice.onnx").write_bytes(data)
        assert "its values lie in '/etc/passwd'" in refused(tmp_path / "twice.onnx")


def _long_field(number: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def test_a_model_takes_no_more_than_it_may_with_its_constants(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    path = adding("initializer", outside("w.bin"), tmp_path)
    size = path.stat().st_size
    assert modelfile.read(path, max_bytes=size + 16)
    assert "16 bytes; of those allowed are left 15" in refused(path, max_bytes=size + 15)
    assert refused(path, max_bytes=size - 1) == f"has {size:,} bytes; allowed are {size - 1:,}"
