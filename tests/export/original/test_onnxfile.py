"""Whatever lies in a file, reading it gives a model or one line that says what is wrong."""

import os
import socket
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from elman_export.errors import ExportError
from elman_export.original import onnxfile
from tests.export.onnxfiles import (
    Write,
    adding,
    external,
    model,
    node,
    refusal,
    writer,
)
from tests.stepmodels import leaky


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)


# What is a model.


def test_a_model_is_read_as_it_is(write: Write) -> None:
    made, _ = leaky()
    assert onnxfile.load(write(made)) == made


def test_values_beside_the_model_are_brought_into_it(write: Write) -> None:
    values = np.arange(4, dtype=np.float32)
    path = write(adding(external("weights/w.bin", offset=8, length=16)))
    (path.parent / "weights").mkdir()
    (path.parent / "weights" / "w.bin").write_bytes(b"-" * 8 + values.tobytes())
    (constant,) = onnxfile.load(path).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(constant), values[None])
    assert not constant.external_data


def test_values_beside_the_model_are_found_inside_of_branches(write: Write) -> None:
    def branch(name: str) -> onnx.GraphProto:
        made = [node("Constant", "", f"w{name}", value=external("w.bin"))]
        made.append(node("Add", f"x w{name}", f"out{name}"))
        value = helper.make_tensor_value_info(f"out{name}", TensorProto.FLOAT, [1, 4])
        return helper.make_graph(made, name, [], [value])

    choice = node("If", "on", "y", then_branch=branch("a"), else_branch=branch("b"))
    on = numpy_helper.from_array(np.array(True), "on")
    path = write(model(choice, initializers=[on]))
    (path.parent / "w.bin").write_bytes(bytes(16))
    loaded = onnxfile.load(path)
    assert b"w.bin" not in loaded.SerializeToString()


def test_nodes_in_no_order_are_put_in_one(write: Write) -> None:
    nodes = [node("Neg", "b", "y"), node("Abs", "a", "b"), node("Relu", "x", "a")]
    assert [each.op_type for each in onnxfile.load(write(model(*nodes))).graph.node] == [
        *("Relu", "Abs", "Neg")
    ]


# What is no file of a model.


def test_no_such_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "m.onnx") == "No such file or directory"


def test_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "is a folder, no ordinary file"


def test_an_empty_file(write: Write) -> None:
    assert refusal(write(b"")) == "the file is empty"


def test_a_text(write: Write) -> None:
    assert refusal(write(b"import onnx\n")) == "not an ONNX file, or a damaged one"


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    assert refusal(tmp_path / "m.onnx") == "is a pipe, a socket or a device, no ordinary file"


def test_a_device_that_never_ends() -> None:
    assert "device" in refusal(Path("/dev/zero"))


def test_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("m.onnx")
        assert refusal(Path("m.onnx"))


def test_a_path_that_is_none() -> None:
    with pytest.raises(ExportError, match="is no path"):
        onnxfile.load("m\0.onnx")


def test_more_than_a_model_can_have(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # takes no room on the disk
    assert refusal(path) == "has 2,147,483,648 bytes; an ONNX file has at most 2,147,483,647"


@pytest.mark.parametrize("kept", [1, 2, 17, 40, -1])
def test_a_file_that_is_cut_off(write: Write, kept: int) -> None:
    made, _ = leaky()
    assert refusal(write(made.SerializeToString()[:kept])).startswith("not an ONNX file")


def test_whatever_byte_is_wrong_there_is_a_model_or_one_line(write: Write) -> None:
    data = leaky()[0].SerializeToString()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        changed = bytearray(data)
        changed[rng.integers(len(data))] = rng.integers(256)
        path = write(bytes(changed))
        try:
            onnxfile.load(path)
        except ExportError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 30


def test_a_model_without_any_node(write: Write) -> None:
    made = model()
    del made.graph.node[:]
    assert refusal(write(made)) == "not an ONNX file, or one without any operator"


# Operators and graphs.


def test_an_operator_that_does_not_exist(write: Write) -> None:
    assert refusal(write(model(node("Frobnicate", "x", "y", "frob")))) == (
        "node 'frob': operator 'Frobnicate' of domain 'ai.onnx' is not known to ONNX Runtime"
    )


def test_an_operator_of_a_domain_that_does_not_exist(write: Write) -> None:
    unknown = helper.make_node("Relu", ["x"], ["y"], "mine", domain="org.example")
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("org.example", 1)]
    for imported in (imports, imports[:1]):
        assert refusal(write(model(unknown, opset_imports=imported))) == (
            "node 'mine': operator 'Relu' of domain 'org.example' is not known to ONNX Runtime"
        )


def test_an_opset_that_is_too_new(write: Write) -> None:
    message = refusal(write(model(opset_imports=[helper.make_opsetid("", 999)])))
    assert "999" in message


def test_a_format_that_is_too_new(write: Write) -> None:
    assert "99" in refusal(write(model(ir_version=99)))


def test_nested_too_deep_for_anybody(write: Write) -> None:
    """10,000 Ifs, each in the branch of another, written byte by byte."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while True:
            length += bytes([size & 127 | (128 if size > 127 else 0)])
            size >>= 7
            if not size:
                return bytes([number << 3 | 2]) + length + content

    graph = b""
    # Field 20, a number: it is a graph.
    kind = bytes([(20 << 3) & 127 | 128, 20 >> 4, onnx.AttributeProto.GRAPH])
    for _ in range(10_000):
        attribute = field(1, b"then_branch") + field(6, graph) + kind
        graph = field(1, field(4, b"If") + field(5, attribute))
    header = bytes([1 << 3, 8])
    assert refusal(write(header + field(7, graph))) == (
        "nodes inside of nodes make messages 30001 deep; ONNX files are read up to 100"
    )


def test_a_graph_that_goes_in_circles(write: Write) -> None:
    nodes = [node("Add", "x b", "a", "first"), node("Relu", "a", "b"), node("Relu", "b", "y")]
    assert refusal(write(model(*nodes))) == "the graph goes in circles at Add 'first'"


def test_a_name_that_is_made_twice(write: Write) -> None:
    nodes = [node("Relu", "x", "y", "one"), node("Neg", "x", "y", "two")]
    assert "Neg 'two' makes 'y', which is made elsewhere too" in refusal(write(model(*nodes)))


def test_a_name_that_nobody_makes(write: Write) -> None:
    assert "nowhere" in refusal(write(model(node("Relu", "nowhere", "y"))))


def test_functions_that_call_each_other_for_ever(write: Write) -> None:
    def function(name: str, other: str) -> onnx.FunctionProto:
        call = helper.make_node(other, ["a"], ["b"], domain="org.example")
        imports = [helper.make_opsetid("org.example", 1)]
        return helper.make_function("org.example", name, ["a"], ["b"], [call], imports)

    made = model(
        helper.make_node("F", ["x"], ["y"], domain="org.example"),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("org.example", 1)],
        functions=[function("F", "G"), function("G", "F")],
    )
    assert refusal(write(made))


def test_names_can_not_break_the_line(write: Write) -> None:
    assert refusal(write(model(node("Bad", "x", "y", "a\nTraceback\n" * 100))))
