"""ONNX files made to be read: whole ones, and ones made to do harm."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from elman_export.errors import ExportError
from elman_export.original import onnxfile

Write = Callable[[ModelProto | bytes], Path]


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


def writer(tmp_path: Path) -> Write:
    """Writes a file into a folder in which nothing else is."""
    folder = tmp_path / "given"
    folder.mkdir()

    def write(content: ModelProto | bytes) -> Path:
        path = folder / "m.onnx"
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        return path

    return write
