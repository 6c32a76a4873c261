"""Whatever lies in a file, reading it gives a model or one line that says what is wrong."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from elman_export import onnxfile
from elman_export.errors import ExportError
from tests.stepmodels import leaky


def model(*nodes: onnx.NodeProto, **options: Any) -> ModelProto:
    """`y` of `x [1, 4]`, by these nodes."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes or [helper.make_node("Relu", ["x"], ["y"], "relu")],
        "g",
        [info("x", TensorProto.FLOAT, [1, 4])],
        [info("y", TensorProto.FLOAT, None)],
        options.pop("initializers", []),
    )
    options.setdefault("opset_imports", [helper.make_opsetid("", 17)])
    return helper.make_model(graph, ir_version=options.pop("ir_version", 8), **options)


def node(operator: str, given: str, made: str, name: str = "", **options: Any) -> onnx.NodeProto:
    return helper.make_node(operator, given.split(), made.split(), name or made, **options)


def external(
    location: str,
    dims: tuple[int, ...] = (1, 4),
    *,
    offset: int | None = None,
    length: int | None = None,
) -> TensorProto:
    """A constant whose values lie elsewhere."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def adding(constant: TensorProto) -> ModelProto:
    return model(node("Add", "x w", "y"), initializers=[constant])


@pytest.fixture
def write(tmp_path: Path) -> Callable[[ModelProto | bytes], Path]:
    folder = tmp_path / "given"
    folder.mkdir()

    def write(content: ModelProto | bytes) -> Path:
        path = folder / "m.onnx"
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        return path

    return write


Write = Callable[[ModelProto | bytes], Path]


def refusal(path: Path) -> str:
    """The one line, without the file's name before it. Nothing is written beside the file."""
    before = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    with pytest.raises(ExportError) as caught:
        onnxfile.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    assert message.startswith(f"{path}: ")
    assert (sorted(path.parent.iterdir()) if path.parent.is_dir() else []) == before
    return message.removeprefix(f"{path}: ")


@contextmanager
def opened_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is opened meanwhile."""
    seen: list[str] = []
    real = os.open

    def spy(path: Any, *arguments: Any, **options: Any) -> int:
        seen.append(str(path))
        return real(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", spy)
        yield seen


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
