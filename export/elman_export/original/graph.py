"""Tracing of a step (a torch module) to the ONNX graph described by a spec.

`build` traces a step and names the tensors. It does not compare the graph's results with the
module's; `elman_export.proof.proof` does.
"""

import logging
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from elman_export.errors import UnsupportedModule
from elman_export.original import functions, precision
from elman_export.original.operators import OPSET
from elman_export.original.steps import zeros
from elman_export.surgery import rounding
from elman_server.model.spec import ModelSpec, StateSpec

_BATCH, _TIME = 2, 3


def build(
    step: nn.Module, spec: ModelSpec, original: nn.Module, last_only: Collection[str] = ()
) -> onnx.ModelProto:
    """Returns the graph of a step, with the tensor names of `spec`.

    `step` takes the elements, the lengths if the spec has them, the states and the contexts. It
    returns the outputs, the new states and the first states computed from contexts. `first` gives
    the names of first states. Outputs in `last_only` have no time axis yet. The graph includes the
    functions of `elman_export.original.functions` that it calls. The caller must call `finish`
    afterwards.

    Raises `UnsupportedModule` with the name of `original` if torch can't trace the step for every
    batch size and length.
    """
    arguments, axes = _arguments(spec)
    name = type(original).__name__
    try:
        with _quiet(), _symbolic_len(original), precision.float32(original):
            program = torch.export.export(step.eval(), arguments, dynamic_shapes=axes)
            traced = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False)
    except (ImportError, UnsupportedModule):
        raise
    except Exception as error:  # any error of the module's own code on symbolic tensors
        if "Constraints violated" in str(error) and "specialized it" not in str(error):
            raise UnsupportedModule(
                f"{name} does not do the same for sequences of every length, or batches of every "
                "size, as one that crops its input (x[:, -50:]) or has an if on a shape: to a "
                "stream, each element is one more"
            ) from error
        if "specialized it to be a constant" in str(error):
            raise UnsupportedModule(
                f"{name} makes its batch size or length a constant, as int(x.shape[0]) and an if "
                "on a shape do; x.shape[0], x.size(1) and len(x) stay variable"
            ) from error
        raise UnsupportedModule(f"torch can't trace {name} to a graph: {_cause(error)}") from error
    assert traced is not None
    model = traced.model_proto
    _name(model.graph, spec, last_only)
    _strip(model)
    functions.attach(model)
    _check(model)
    return model


def finish(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the graph as written to the file: plain operators that compute each row
    independently."""
    model = rounding.settle(functions.inline(model))
    _check(model)
    return model


def declare(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Sets the shapes of the graph's outputs from the spec."""
    shapes = _outputs(spec)
    for value in model.graph.output:
        _shape(value, value.name, shapes[value.name])


def _check(model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UnsupportedModule(f"the step's graph is no valid ONNX: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    """First line of the root cause's message."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def first(state: str) -> str:
    """Name of a state's first value in a graph that computes the value."""
    return f"{state}.first"


def _arguments(spec: ModelSpec) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
    """Arguments for tracing a step, and their axes of variable length."""
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    front = (_BATCH, _TIME) if spec.time_axis else (_BATCH,)
    arguments = [zeros((*front, *spec.input.shape), spec.input.dtype)]
    axes: list[Any] = [{0: batch, 1: time} if spec.time_axis else {0: batch}]
    if spec.lengths is not None:
        arguments.append(torch.full((_BATCH,), _TIME, dtype=torch.int32))
        axes.append({0: batch})
    others: list[Any] = []
    for state in spec.states:
        arguments.append(zeros(_laid_out(state, _BATCH), state.dtype))
        others.append({state.batch_axis: batch})
    for context in spec.contexts:
        arguments.append(zeros((_BATCH, *context.shape), context.dtype))
        others.append({0: batch})
    return tuple(arguments), (*axes, tuple(others))


def _laid_out(state: StateSpec, batch: Any) -> list[Any]:
    return [*state.shape[: state.batch_axis], batch, *state.shape[state.batch_axis :]]


def _inputs(spec: ModelSpec) -> dict[str, list[Any]]:
    """Shapes by name, in the order of a step's inputs."""
    front = ["batch", "time"] if spec.time_axis else ["batch"]
    found: dict[str, list[Any]] = {spec.input.name: [*front, *spec.input.shape]}
    if spec.lengths is not None:
        found[spec.lengths] = ["batch"]
    found |= {state.input: _laid_out(state, "batch") for state in spec.states}
    return found | {context.name: ["batch", *context.shape] for context in spec.contexts}


def _outputs(spec: ModelSpec, last_only: Collection[str] = ()) -> dict[str, list[Any]]:
    """Shapes by name, in the order of a step's outputs."""
    front = ["batch", "time"] if spec.time_axis else ["batch"]
    found: dict[str, list[Any]] = {
        output.name: [*(front[:1] if output.name in last_only else front), *output.shape]
        for output in spec.outputs
    }
    found |= {state.output: _laid_out(state, "batch") for state in spec.states}
    return found | {
        first(state.name): _laid_out(state, "batch")
        for state in spec.states
        if state.name in spec.initialized
    }


def _name(graph: onnx.GraphProto, spec: ModelSpec, last_only: Collection[str]) -> None:
    """Gives the graph's inputs and outputs the names and shapes in the spec. Other tensors get a
    prefix."""
    inputs, outputs = _inputs(spec), _outputs(spec, last_only)
    inner = [name for node in graph.node for name in (*node.input, *node.output) if name]
    names = {name: f"inner/{name}" for name in inner}
    names |= dict(zip((value.name for value in graph.input), inputs, strict=True))
    for initializer in graph.initializer:
        initializer.name = names.setdefault(initializer.name, f"inner/{initializer.name}")
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value, shape in zip(graph.input, inputs.values(), strict=True):
        _shape(value, names[value.name], shape)
    for value, (name, shape) in zip(graph.output, outputs.items(), strict=True):
        # An Identity for each output, since a tensor may be several outputs, or also an input.
        graph.node.append(helper.make_node("Identity", [names[value.name]], [name]))
        _shape(value, name, shape)


def _shape(value: onnx.ValueInfoProto, name: str, shape: list[Any]) -> None:
    elements = value.type.tensor_type.elem_type
    value.CopyFrom(helper.make_tensor_value_info(name, elements, shape))


def _strip(model: onnx.ModelProto) -> None:
    """Removes metadata about the machine and the code that made the graph."""
    graph = model.graph
    graph.name = "step"
    del graph.value_info[:]
    del model.metadata_props[:]
    del graph.metadata_props[:]
    for initializer in graph.initializer:
        del initializer.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]


@contextmanager
def _symbolic_len(module: nn.Module) -> Iterator[None]:
    """Keeps `len(x)` variable in the Python modules that define the module's classes.

    Python's own `len` returns a number, which ties the graph to one batch size.
    """
    namespaces = [
        vars(sys.modules[cls.__module__])
        for cls in {type(submodule) for submodule in module.modules()}
        if cls.__module__ in sys.modules and cls.__module__.partition(".")[0] != "torch"
    ]
    patched = [names for names in namespaces if "len" not in names]
    for names in patched:
        names["len"] = _len
    try:
        yield
    finally:
        for names in patched:
            names.pop("len", None)


def _len(value: Any) -> Any:
    return value.shape[0] if isinstance(value, Tensor) and value.dim() else len(value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences messages of torch's exporter about its own packages."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)  # "torchvision is not installed"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "The tensor attributes .* were assigned during export"
            )
            warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is deprecated")
            yield
    finally:
        log.setLevel(level)
