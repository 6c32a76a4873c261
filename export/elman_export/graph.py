"""A module and its layers, traced to the ONNX graph of one step.

`build` owns how the step is put together and traced, and what its tensors are called. It does not
check that the graph computes what the module does: that is `elman_export.proof`'s.
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import onnx
import torch
from torch import Tensor, nn

from elman_export.errors import UnsupportedModule
from elman_export.recurrence import OPSET, Carry, RecurrentLayers, RecurrentOperator
from elman_export.subject import Subject, select
from elman_server.spec import ModelSpec

_BATCH, _TIME = 2, 3


class _Step(nn.Module):
    """`(elements, lengths, *states)` to `(*outputs, *states)`, each laid out as the spec says."""

    def __init__(self, subject: Subject, operators: Mapping[nn.Module, RecurrentOperator]) -> None:
        super().__init__()
        self.subject = subject
        self.operators = tuple(operators.values())
        self.module = _replace(subject.module, operators)

    def forward(self, x: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        names = [name for operator in self.operators for name in operator.state_names]
        carry = Carry(lengths=lengths, taken=dict(zip(names, states, strict=True)))
        for operator in self.operators:
            operator.carry = carry
        returned = self.module(self.subject.arrange(x))
        final = [state for operator in self.operators for state in operator.final]
        found = select(returned, self.subject.outputs, final)
        return (
            *(self.subject.arrange(tensor) for tensor in found.values()),
            *(carry.given[name] for name in names),
        )


def build(subject: Subject, layers: Sequence[RecurrentLayers], spec: ModelSpec) -> onnx.ModelProto:
    """The graph of one step, its tensors called as `spec` says; the subject is left as it is.

    `layers` are those that run, in the order of the spec's states. Raises `UnsupportedModule` where
    torch can't trace the module for every batch size and length.
    """
    step = _Step(subject, {each.module: RecurrentOperator(each) for each in layers}).eval()
    arguments = (
        torch.zeros(_BATCH, _TIME, *spec.input.shape, dtype=getattr(torch, spec.input.dtype)),
        torch.full((_BATCH,), _TIME, dtype=torch.int32),
        *(torch.zeros(1, _BATCH, state.shape[-1]) for state in spec.states),
    )
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    axes = ({0: batch, 1: time}, {0: batch}, tuple({1: batch} for _ in spec.states))
    try:
        with _quiet():
            program = torch.export.export(step, arguments, dynamic_shapes=axes)
            traced = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False)
    except ImportError:
        raise
    except Exception as error:  # whatever the module's own code raises on symbolic tensors
        name = type(subject.module).__name__
        if "specialized it to be a constant" in str(error):
            raise UnsupportedModule(
                f"{name} makes its batch size or length a constant, as len(x), int(x.shape[0]) and "
                "an if on a shape do; x.shape[0] and x.size(1) stay variable"
            ) from error
        raise UnsupportedModule(f"torch can't trace {name} to a graph: {error}") from error
    assert traced is not None
    model = traced.model_proto
    _name(model.graph, spec)
    _strip(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _replace(module: nn.Module, operators: Mapping[nn.Module, RecurrentOperator]) -> nn.Module:
    """A copy of `module` that has `operators` where it had their layers."""
    # To deepcopy they are the copies of the layers that it has made already.
    return copy.deepcopy(module, {id(layer): operator for layer, operator in operators.items()})


def _name(graph: onnx.GraphProto, spec: ModelSpec) -> None:
    """Gives the graph's inputs, outputs and dynamic axes the spec's names; others keep clear."""
    assert spec.lengths is not None
    inputs = [spec.input.name, spec.lengths, *(state.input for state in spec.states)]
    outputs = [*(output.name for output in spec.outputs), *(s.output for s in spec.states)]
    inner = [name for node in graph.node for name in (*node.input, *node.output) if name]
    names = {name: f"inner/{name}" for name in inner}
    names |= dict(zip((value.name for value in graph.input), inputs, strict=True))
    names |= dict(zip((value.name for value in graph.output), outputs, strict=True))
    for initializer in graph.initializer:
        initializer.name = names.get(initializer.name, initializer.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    batch, time = graph.input[0].type.tensor_type.shape.dim[:2]
    axes = {batch.dim_param: "batch", time.dim_param: "time"}
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = axes[axis.dim_param]


def _strip(model: onnx.ModelProto) -> None:
    """Drops what only tells of the machine and the code that made the graph."""
    graph = model.graph
    graph.name = "step"
    del graph.value_info[:]
    del model.metadata_props[:]
    del graph.metadata_props[:]
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
    for initializer in graph.initializer:
        del initializer.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps to itself what torch's exporter says about its own packages."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)  # "torchvision is not installed"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is deprecated")
            yield
    finally:
        log.setLevel(level)
