"""A step of one shape bound to fixed memory: a further run only fills the memory and makes a call.

The step knows the tensors of a step model's graph, but not the owners of the rows.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.jobs.interrupt import Interrupt
from elman_server.model.spec import ModelSpec, StateSpec
from elman_server.runner.denormals import as_zero
from elman_server.runner.runtime import run_options

Array = NDArray[Any]

_ALIGNMENT = 64
"""Bytes. Vectorised loops may process single numbers up to an aligned address. With equal alignment
everywhere, an address can't change a result."""
_LARGE_NBYTES = 256 * 1024
"""Outputs with more bytes are written to new memory for each run: a copy would cost more than a new
binding."""


class Memory(Protocol):
    """Memory for states, contexts and new states of the graph."""

    device: str
    """`cpu` or `cuda`."""
    device_id: int
    elsewhere: bool
    """Whether host data must be copied to get into the memory."""

    def address(self, name: str, nbytes: int) -> int:
        """Returns the address of at least `nbytes` bytes, reserved for `name` during the life of
        the memory."""


class HostMemory:
    """Arrays by name. Steps of all shapes share the arrays, because only one step runs at a
    time."""

    device = "cpu"
    device_id = 0
    elsewhere = False

    def __init__(self) -> None:
        self._blocks: dict[str, Array] = {}
        # Kept because steps bound to a smaller block still use that block.
        self._outgrown: list[Array] = []

    def address(self, name: str, nbytes: int) -> int:
        return self._block(name, nbytes).ctypes.data

    def view(self, name: str, shape: Sequence[int], dtype: str) -> Array:
        """Returns an array on the memory of `name`."""
        nbytes = prod(shape) * np.dtype(dtype).itemsize
        return self._block(name, nbytes)[:nbytes].view(dtype).reshape(shape)

    def _block(self, name: str, nbytes: int) -> Array:
        block = self._blocks.get(name)
        if block is None or block.nbytes < nbytes:
            if block is not None:
                self._outgrown.append(block)
                nbytes = max(nbytes, 2 * block.nbytes)
            block = self._blocks[name] = aligned(nbytes)
        return block


def aligned(nbytes: int) -> Array:
    """Returns bytes at an address aligned for vectorised loops."""
    block = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -block.ctypes.data % _ALIGNMENT
    return block[start : start + nbytes]


class BoundStep:
    """A step of `rows` x `chunk` elements with the outputs `outputs`."""

    def __init__(
        self,
        session: Any,
        spec: ModelSpec,
        *,
        rows: int,
        chunk: int,
        outputs: frozenset[str],
        host: HostMemory,
        memory: Memory,
    ) -> None:
        """`session` is the graph's `onnxruntime.InferenceSession`. Elements, lengths and outputs
        are in host memory; states and contexts are in `memory`."""
        self._session = session
        self._binding = session.io_binding()
        self._memories = host, memory  # keeps the binding's memory alive
        # While binding an input, the runtime copies it to the device that the graph needs it on.
        # So, with memory off the host, all inputs are bound again for each run: host inputs, but
        # device inputs too, because a provider may leave a node to the CPU.
        self._arrays: list[tuple[str, Array]] = []
        self._places: list[tuple[Any, ...]] = []
        self._elsewhere = memory.elsewhere
        item = spec.input.shape
        shape = (rows, chunk, *item) if spec.time_axis else (rows, *item)
        elements = host.view(f"input {spec.input.name}", shape, spec.input.dtype)
        self._take(spec.input.name, elements)
        self._elements = elements.reshape(rows, chunk, *item)
        self._flat = elements.reshape(rows * chunk, *item)
        self._lengths: Array | None = None
        self._chunk = chunk
        self._ragged = False
        if spec.lengths is not None:
            self._lengths = aligned(4 * rows).view(np.int32)
            self._lengths.fill(chunk)
            self._take(spec.lengths, self._lengths)
        for state in spec.states:
            self._place("input", memory, state.input, state.dtype, laid_out(state, rows))
            self._place("output", memory, state.output, state.dtype, laid_out(state, rows))
        for context in spec.step_contexts:
            assert context.input is not None
            shape = (rows, *context.shape)
            self._place("input", memory, context.input, context.dtype, shape)
        self._small: list[tuple[str, Array]] = []
        self._large: list[tuple[str, str, tuple[int, ...], tuple[int, ...]]] = []
        for output in spec.outputs:
            if output.name not in outputs:
                continue
            own = (rows, chunk, *output.shape) if spec.time_axis else (rows, *output.shape)
            whole = (rows, chunk, *output.shape)
            if prod(own) * np.dtype(output.dtype).itemsize > _LARGE_NBYTES:
                self._large.append((output.name, output.dtype, own, whole))
                continue
            array = host.view(f"output {output.name}", own, output.dtype)
            self._give(output.name, array)
            self._small.append((output.name, array.reshape(whole)))

    def fill(self, elements: Array, counts: Sequence[int] | Array) -> None:
        """Fills the input with elements `[sum(counts), *shape]`: `counts[i]` for row `i`."""
        full = len(elements) == len(self._flat)
        if full:
            np.copyto(self._flat, elements, casting="no")
        else:
            self._elements.fill(0)
            inside = np.arange(self._chunk) < np.asarray(counts)[:, None]
            self._elements[inside] = elements
        if self._lengths is not None and (self._ragged or not full):
            self._lengths[:] = self._chunk if full else counts
            self._ragged = not full

    def run(self, interrupt: Interrupt | None = None) -> Mapping[str, Array]:
        """Returns the outputs, `[rows, chunk, *shape]`; later steps do not overwrite them.

        Raises the runtime's errors, for example for a tensor in another shape than the bound shape.
        """
        if self._elsewhere:
            for name, array in self._arrays:
                self._binding.bind_cpu_input(name, array)
            for place in self._places:
                self._binding.bind_input(*place)
            self._binding.synchronize_inputs()
        found: dict[str, Array] = {}
        for name, dtype, own, whole in self._large:
            array = aligned(prod(own) * np.dtype(dtype).itemsize).view(dtype).reshape(own)
            self._give(name, array)
            found[name] = array.reshape(whole)
        with as_zero:
            self._session.run_with_iobinding(self._binding, run_options(interrupt))
        for name, array in self._small:
            found[name] = array.copy()
        return found

    def _take(self, name: str, array: Array) -> None:
        if self._elsewhere:
            self._arrays.append((name, array))
        else:
            self._binding.bind_input(
                name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
            )

    def _give(self, name: str, array: Array) -> None:
        self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def _place(
        self, side: str, memory: Memory, name: str, dtype: str, shape: tuple[int, ...]
    ) -> None:
        kind = np.dtype(dtype)
        # Inputs and outputs may share names, so the side is part of the key.
        address = memory.address(f"{side} {name}", prod(shape) * kind.itemsize)
        place = name, memory.device, memory.device_id, kind.type, shape, address
        if side == "output":
            self._binding.bind_output(*place)
        elif self._elsewhere:
            self._places.append(place)
        else:
            self._binding.bind_input(*place)


def laid_out(state: StateSpec, rows: int) -> tuple[int, ...]:
    """Returns the shape of a state's tensor in the graph."""
    return (*state.shape[: state.batch_axis], rows, *state.shape[state.batch_axis :])
