"""Roles of the inputs and outputs of a streaming graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from elman_export.errors import ExportError, UnsupportedGraph
from elman_export.options import GraphInputs
from elman_export.original.adoption import pairs
from elman_export.original.adoption.port import Port, merged, ports, shape_text
from elman_export.original.adoption.sources import feeding_states
from elman_export.surgery import onnxnodes, recurrent
from elman_export.surgery.onnxnodes import RANDOM, before_casts, describe, inputs, makers


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A state: an input, and the output with the next value."""

    input: Port
    output: Port
    initial: np.ndarray | None = None
    """First value in the graph; `None` for zeros."""

    @property
    def declared(self) -> Port:
        """The state's port, with the shapes of input and output merged."""
        dims = merged(self.input.dims, self.output.dims)
        return Port(name=self.input.name, dtype=self.input.dtype, dims=dims)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """All inputs of a graph, and the requested outputs."""

    element: Port
    states: tuple[State, ...]
    contexts: tuple[Port, ...]
    lengths: Port | None
    constants: Mapping[str, np.ndarray]
    """In the graph's declared types."""
    outputs: tuple[Port, ...]


def assign(model: onnx.ModelProto, inputs: GraphInputs, *, outputs: Sequence[str]) -> Roles:
    """Assigns a role to each input and output.

    Raises `ExportError` for names missing in the graph and for uncertain roles; `UnsupportedGraph`
    for a graph without states or with random numbers.
    """
    for node in onnxnodes.nodes(model):
        if node.op_type in RANDOM:
            raise UnsupportedGraph(
                f"{describe(node)} draws random numbers, so that no two runs are the same"
            )
    states, constants, contexts = inputs.states, inputs.constants, inputs.contexts
    initial = {each.name: each for each in model.graph.initializer}
    takes = ports(model.graph.input)
    returns = ports(model.graph.output)
    _check_names("constant", constants, takes)
    _check_names("context", contexts, takes)
    for name in constants:
        if name in states or name in contexts:
            raise ExportError(f"{name!r} can't be a constant and something else as well")
    named = {*states, *contexts, *constants}
    # Old graphs list weights as inputs. Newer graphs list inputs with default values.
    required = {name: port for name, port in takes.items() if name not in initial or name in named}
    lengths = _lengths(model, required, named)
    others = {*constants, *contexts, *([lengths] if lengths else [])}
    left = [port for name, port in required.items() if name not in others]
    if not left:
        raise ExportError("no input is left that takes the elements")
    paired = pairs.find(left, list(returns.values()), states)
    if not paired:
        raise UnsupportedGraph("the graph has no state: none of its outputs is fed back")
    for name in returns:
        if name in takes:
            raise UnsupportedGraph(f"output {name!r} is an input, handed through as it came")
    (element,) = [port for port in left if port.name not in paired]
    return Roles(
        element=element,
        states=tuple(
            State(
                input=takes[name],
                output=returns[target],
                initial=numpy_helper.to_array(initial[name]) if name in initial else None,
            )
            for name, target in paired.items()
        ),
        contexts=tuple(takes[name] for name in contexts),
        lengths=takes[lengths] if lengths else None,
        constants={name: _constant(takes[name], value) for name, value in constants.items()},
        outputs=_selected(returns, outputs, set(paired.values())),
    )


def has_states(model: onnx.ModelProto, inputs: GraphInputs) -> bool:
    """Whether the declarations allow states among a graph's inputs and outputs.

    Otherwise the recurrent operators start anew in each run, and `elman_export.surgery` lifts their
    states.
    """
    initial = {each.name for each in model.graph.initializer}
    required = {
        value.name: port
        for value in model.graph.input
        if value.name not in initial
        and value.name not in (*inputs.constants, *inputs.contexts)
        and (port := _port(value)) is not None
    }
    lengths = _lengths(model, required, set())
    left = [port for name, port in required.items() if name != lengths]
    returns = [port for value in model.graph.output if (port := _port(value)) is not None]
    carried = feeding_states(model)
    # One input takes the elements, even if a first state is computed from the elements.
    states = left if carried is None else [port for port in left if port.name in carried]
    return len(left) > 1 and pairs.may_pair(states, returns)


def _port(value: onnx.ValueInfoProto) -> Port | None:
    try:
        return ports([value])[value.name]
    except UnsupportedGraph:
        return None


def _check_names(what: str, names: Sequence[str] | Mapping[str, Any], inputs: object) -> None:
    assert isinstance(inputs, dict)
    for name in names:
        if name not in inputs:
            raise ExportError(
                f"{what} {name!r} is no input of the graph; it has {', '.join(map(repr, inputs))}"
            )


def _lengths(model: onnx.ModelProto, required: Mapping[str, Port], named: set[str]) -> str | None:
    """Returns the input with the number of elements in each row, as used by recurrent operators."""
    by_made = makers(model.graph)
    for node in onnxnodes.nodes(model):
        if not recurrent.is_recurrent(node):
            continue
        name = before_casts(by_made, inputs(node, recurrent.LENGTHS))
        if name in required and name not in named and required[name].dtype in ("int32", "int64"):
            return name
    return None


def _constant(port: Port, value: Any) -> np.ndarray:
    try:
        number = np.asarray(value)
        with np.errstate(all="ignore"):
            array = number.astype(port.dtype)
        if not np.array_equal(array.astype(np.float64), number.astype(np.float64), equal_nan=True):
            close = port.dtype.startswith("float") and np.allclose(array, number.astype(np.float64))
            if not close:
                raise ValueError
    except (TypeError, ValueError):
        raise ExportError(f"constant {port.name!r} is {value!r}; it must be {port.dtype}") from None
    if port.dims is None:
        return array
    if array.ndim == 0 and all(size in (None, 1) for size in port.dims):
        array = array.reshape([1] * len(port.dims))
    fits = len(array.shape) == len(port.dims) and all(
        size in (None, actual) for size, actual in zip(port.dims, array.shape, strict=True)
    )
    if not fits:
        raise ExportError(
            f"constant {port.name!r} has shape {list(array.shape)}; the graph declares "
            f"{shape_text(port.dims)}"
        )
    return array


def _selected(
    returns: Mapping[str, Port], names: Sequence[str], paired: set[str]
) -> tuple[Port, ...]:
    free = [name for name in returns if name not in paired]
    for name in names:
        if name not in returns:
            raise ExportError(
                f"output {name!r} is none of the graph's; it has {', '.join(map(repr, returns))}"
            )
    if len(set(names)) < len(names):
        raise ExportError(f"an output is named twice: {', '.join(names)}")
    if not names and not free:
        raise ExportError(
            "all outputs are next values of states; say which of them is the prediction too: "
            + " ".join(f"--returns {name}=values" for name in returns)
        )
    return tuple(returns[name] for name in names or free)
