"""States and contexts of all slots in a device's memory. Only growth and snapshots copy states to
the host.

Small graphs on the same device gather and scatter rows, instead of custom kernels: `Gather` takes
rows out, `ScatterND` puts rows back. ONNX Runtime's `ScatterND` kernels write in place if input and
output are bound to the same memory, as is done here. With a kernel unable to do so, the result
would be the same, but the step as slow as a copy of all states.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from elman_server.model.spec import ModelSpec
from elman_server.runner import graphfile
from elman_server.runner.bound import Array
from elman_server.runner.graphfile import Node, Value
from elman_server.runner.rowarray import Index
from elman_server.runner.runtime import Block, Device, open_session


class DeviceMemory:
    """Memory by name on a device. Steps of all shapes share the memory, because only one step runs
    at a time."""

    elsewhere = True

    def __init__(self, device: Device) -> None:
        self._device = device
        self.device = device.kind
        self.device_id = device.id
        self._blocks: dict[str, Block] = {}
        # Kept because steps bound to a smaller block still use that block.
        self._outgrown: list[Block] = []

    def address(self, name: str, nbytes: int) -> int:
        block = self._blocks.get(name)
        if block is None or block.nbytes < nbytes:
            if block is not None:
                self._outgrown.append(block)
                nbytes = max(nbytes, 2 * block.nbytes)
            block = self._blocks[name] = Block(self._device, np.zeros(nbytes, np.uint8))
        return block.address


@dataclass(slots=True)
class _Rows:
    """Rows of one tensor: `[parts, capacity, width]`. A row is contiguous if `parts` is 1. The last
    row belongs to no slot and never changes."""

    name: str
    """Name in the gather and scatter graphs."""
    source: str
    """Name in `DeviceMemory` of a step's input rows; `target` names the output rows."""
    target: str
    dtype: Any
    shape: tuple[int, ...]
    axis: int
    last: Array
    parts: int
    width: int
    block: Block | None = None

    @staticmethod
    def make(
        device: Device, number: int, *, last: Array, axis: int, input: str, output: str = ""
    ) -> "_Rows":
        parts, width = prod(last.shape[:axis]), prod(last.shape[axis:])
        return _Rows(
            name=str(number),
            source=f"input {input}",
            target=f"output {output}",
            dtype=last.dtype,
            shape=last.shape,
            axis=axis,
            last=last.reshape(parts, width),
            parts=parts,
            width=width,
        )

    def grown(self, device: Device, capacity: int) -> Block:
        """Returns a larger block with the same rows."""
        grown = np.zeros((self.parts, capacity, self.width), self.dtype)
        if self.block is not None:
            old = self.block.read()[:, :-1]
            grown[:, : old.shape[1]] = old
        grown[:, -1] = self.last
        return Block(device, grown)

    def laid_out(self, rows: Array) -> Array:
        """Converts `[rows, *shape]` to `[parts, rows, width]`."""
        moved = np.moveaxis(rows, 0, self.axis).reshape(self.parts, len(rows), self.width)
        return np.ascontiguousarray(moved, self.dtype)

    def rows_first(self, rows: Array) -> Array:
        """Converts `[parts, rows, width]` to `[rows, *shape]`."""
        shape = (*self.shape[: self.axis], rows.shape[1], *self.shape[self.axis :])
        return np.ascontiguousarray(np.moveaxis(rows.reshape(shape), self.axis, 0))


class DeviceStates:
    def __init__(self, spec: ModelSpec, *, device: Device, capacity: int) -> None:
        self.memory = DeviceMemory(device)
        self._device = device
        self._states = [
            _Rows.make(
                device,
                number,
                last=state.initial_value(),
                axis=state.batch_axis,
                input=state.input,
                output=state.output,
            )
            for number, state in enumerate(spec.states)
        ]
        self._contexts = [
            _Rows.make(
                device,
                len(spec.states) + number,
                last=np.zeros(context.shape, context.dtype),
                axis=0,
                input=context.input or "",
            )
            for number, context in enumerate(spec.step_contexts)
        ]
        self._all = self._states + self._contexts
        self.grow(capacity)
        # Sessions of the gather and scatter graphs; None without rows to copy.
        self._gather: Any = _gather(device, self._states, self._contexts) if self._all else None
        self._scatter: Any = _scatter(device, self._states) if self._states else None
        self._scatter_all: Any = self._scatter
        if self._contexts:
            self._scatter_all = _scatter(device, self._all)

    @property
    def nbytes(self) -> int:
        return sum(rows.block.nbytes for rows in self._all if rows.block is not None)

    def grow(self, capacity: int) -> None:
        # All or nothing: if memory for one tensor is missing, all blocks stay at their addresses,
        # where bound steps and carriers look for them.
        blocks = [rows.grown(self._device, capacity) for rows in self._all]
        for rows, block in zip(self._all, blocks, strict=True):
            rows.block = block
        self.capacity = capacity

    def write(self, slots: Index, rows: Sequence[Array]) -> None:
        if not self._all:
            return
        places: list[_Place] = []
        binding = self._scatter_all.io_binding()
        for own, new in zip(self._all, rows, strict=True):
            places.append(self._pool("pool", own))
            binding.bind_cpu_input(f"new {own.name}", own.laid_out(new))
            binding.bind_output(*self._pool("out", own))
        _run(self._scatter_all, binding, places, _places(self._all, slots))

    def read(self, slots: Index) -> tuple[Array, ...]:
        if not self._all:
            return ()
        binding = self._gather.io_binding()
        places = [self._pool("pool", rows) for rows in self._all]
        for rows in self._all:
            binding.bind_output(f"rows {rows.name}", "cpu")
        _run(self._gather, binding, places, self._indexes(slots, slots))
        taken = binding.copy_outputs_to_cpu()
        return tuple(rows.rows_first(own) for rows, own in zip(self._all, taken, strict=True))

    def carrier(self, rows: int) -> "Carrier":
        """Returns a carrier, valid until the states grow."""
        carrier = Carrier(self)
        if self._all:
            carrier.taking = self._gather.io_binding()
            for each in self._all:
                carrier.taken.append(self._pool("pool", each))
                carrier.taking.bind_output(*self._in_step("rows", each, rows, each.source))
        if self._states:
            carrier.putting = self._scatter.io_binding()
            for each in self._states:
                carrier.put_back.append(self._pool("pool", each))
                carrier.put_back.append(self._in_step("new", each, rows, each.target))
                carrier.putting.bind_output(*self._pool("out", each))
        return carrier

    def take(self, carrier: "Carrier", slots: Index, before: Index) -> None:
        _run(self._gather, carrier.taking, carrier.taken, self._indexes(slots, before))

    def put(self, carrier: "Carrier", slots: Index) -> None:
        _run(self._scatter, carrier.putting, carrier.put_back, _places(self._states, slots))

    def _indexes(self, slots: Index, before: Index) -> dict[str, Array]:
        indexes: dict[str, Array] = {}
        if self._states:
            indexes["before"] = before.astype(np.int64)
        if self._contexts:
            indexes["slots"] = slots.astype(np.int64)
        return indexes

    def _pool(self, name: str, rows: _Rows) -> "_Place":
        assert rows.block is not None
        return self._place(name, rows, self.capacity, rows.block.address)

    def _in_step(self, name: str, rows: _Rows, count: int, place: str) -> "_Place":
        nbytes = rows.parts * count * rows.width * rows.dtype.itemsize
        return self._place(name, rows, count, self.memory.address(place, nbytes))

    def _place(self, name: str, rows: _Rows, count: int, address: int) -> "_Place":
        shape = (rows.parts, count, rows.width)
        device = self._device
        return f"{name} {rows.name}", device.kind, device.id, rows.dtype.type, shape, address


_Place = tuple[str, str, int, Any, tuple[int, int, int], int]
"""Arguments that bind a tensor: name, device, device id, type, shape, address."""


class Carrier:
    """Copies rows to a step's inputs, and back from the step's outputs."""

    def __init__(self, states: DeviceStates) -> None:
        self._states = states
        # Bindings of the gather and scatter graphs, and their inputs on the device.
        self.taking: Any = None
        self.taken: list[_Place] = []
        self.putting: Any = None
        self.put_back: list[_Place] = []

    def take(self, slots: Index, before: Index) -> None:
        if self.taking is not None:
            self._states.take(self, slots, before)

    def put(self, slots: Index) -> None:
        if self.putting is not None:
            self._states.put(self, slots)


def _run(
    session: Any, binding: Any, places: Iterable[_Place], indexes: Mapping[str, Array]
) -> None:
    """Runs a graph. Inputs are bound for each run, for the reason in `BoundStep`."""
    for place in places:
        binding.bind_input(*place)
    for name, index in indexes.items():
        binding.bind_cpu_input(name, index)
    binding.synchronize_inputs()
    session.run_with_iobinding(binding)


def _gather(device: Device, states: list[_Rows], contexts: list[_Rows]) -> Any:
    nodes, inputs, outputs = [], [], []
    for index, group in (("before", states), ("slots", contexts)):
        if group:
            inputs.append(Value(index, "int64", 1))
        for rows in group:
            pool, taken = f"pool {rows.name}", f"rows {rows.name}"
            nodes.append(Node("Gather", [pool, index], taken, axis=1))
            inputs.append(Value(pool, rows.dtype.name, 3))
            outputs.append(Value(taken, rows.dtype.name, 3))
    return open_session(graphfile.write(nodes, inputs, outputs), device=device)


def _scatter(device: Device, group: list[_Rows]) -> Any:
    nodes, outputs = [], []
    inputs = [Value(f"places {parts}", "int64", 3) for parts in _parts(group)]
    for rows in group:
        pool, new, out = f"pool {rows.name}", f"new {rows.name}", f"out {rows.name}"
        nodes.append(Node("ScatterND", [pool, f"places {rows.parts}", new], out))
        inputs += [Value(name, rows.dtype.name, 3) for name in (pool, new)]
        outputs.append(Value(out, rows.dtype.name, 3))
    return open_session(graphfile.write(nodes, inputs, outputs), device=device)


def _parts(group: Iterable[_Rows]) -> list[int]:
    return sorted({rows.parts for rows in group})


def _places(group: Iterable[_Rows], slots: Index) -> dict[str, Array]:
    """Returns `[parts, rows, 2]` indices by number of parts: the part's number and the row's
    slot."""
    found: dict[str, Array] = {}
    for parts in _parts(group):
        places = found[f"places {parts}"] = np.empty((parts, len(slots), 2), np.int64)
        places[..., 0] = np.arange(parts)[:, None]
        places[..., 1] = slots
    return found
