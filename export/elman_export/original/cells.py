"""The kind of original that is a torch module of an element and states."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from elman_export.candidate import Candidate
from elman_export.errors import UnsupportedModule, explained
from elman_export.interface import Output, States
from elman_export.options import ModuleArguments, Options
from elman_export.original import graph, precision, torchmodule
from elman_export.original.calling import CallFailed, array, call, described, tensor
from elman_export.original.explain import changing, mixing, sizes
from elman_export.original.operators import CellOperator, RecurrentOperator
from elman_export.original.recurrence import RecurrentLayers, plain
from elman_export.original.subject import select
from elman_export.original.torchmodule import TorchModule
from elman_export.proof.proof import Sequences
from elman_export.proof.sample import random_contexts, random_elements
from elman_export.proof.stepmodel import Arrays
from elman_export.surgery.initial import split
from elman_server.model.spec import ContextSpec, InputSpec, StateSpec

_BATCHES = (2, 5)
"""Batch sizes of the runs that observe the module's outputs."""

CellResult = tuple[Mapping[str, Tensor], list[Tensor]]
"""Outputs by name, and the new states in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSubject:
    """A module in evaluation mode for single elements: `module(x, *states, *contexts)`."""

    module: nn.Module
    outputs: tuple[Output, ...]
    states: Sequence[States]
    """Nested as in the module's arguments."""

    @property
    def flat(self) -> tuple[StateSpec, ...]:
        return tuple(_flat(self.states))

    def arguments(self, states: Sequence[Tensor]) -> list[Any]:
        """Nests the states as in the module's arguments."""
        waiting = iter(states)
        return [_nested(each, waiting) for each in self.states]

    def run(self, x: Tensor, states: Sequence[Tensor], contexts: Sequence[Tensor]) -> CellResult:
        """Runs a step on `x [batch, *shape]`. Raises `UnsupportedModule` if a state changes shape
        or type."""
        description = described([x, *states, *contexts])
        arguments = [x, *self.arguments(states), *contexts]
        outputs, new = self.take(call(self.module, arguments, description))
        for spec, before, after in zip(self.flat, states, new, strict=True):
            if before.shape != after.shape or before.dtype != after.dtype:
                raise UnsupportedModule(
                    f"state {spec.name!r} comes back as {described([after])}, and was given as "
                    f"{described([before])}"
                )
        return outputs, new

    def take(self, returned: Any) -> CellResult:
        """Splits the module's return value into outputs and states.

        The module returns the outputs in order, or a dict of outputs, and then the states.
        Alternatively, a single dict holds outputs and states. Raises `UnsupportedModule` for any
        other value.
        """
        flat = self.flat
        if isinstance(returned, Mapping) and all(each.name in returned for each in flat):
            states = [returned[each.name] for each in flat]
            found = {name: value for name, value in returned.items() if name in self._names}
            return select(found, self.outputs, ()), states
        leaves = list(_leaves(returned))
        if isinstance(self.module, nn.RNNCellBase):
            leaves.insert(0, leaves[0])  # a cell's hidden state is also the output
        values, states = leaves[: -len(flat)], leaves[-len(flat) :]
        if not values or not all(isinstance(state, Tensor) for state in states):
            raise UnsupportedModule(
                f"the module returns {len(leaves)} tensors; expected are outputs "
                f"({', '.join(map(repr, self._names))}) and then states "
                f"({', '.join(repr(each.name) for each in flat)})"
            )
        if len(values) == 1 and isinstance(values[0], Mapping):
            return select(values[0], self.outputs, ()), states
        return select(values, self.outputs, ()), states

    def answer(self, sequences: Sequences) -> Arrays:
        """Runs the module on every element in turn. Returns `[batch, time, *shape]` by output."""
        x = sequences.elements
        dtype = precision.of(self.module)
        contexts = [tensor(each, dtype) for each in sequences.contexts.values()]
        states = [tensor(_rows(state, len(x)), dtype) for state in self.flat]
        steps = []
        for time in range(x.shape[1]):
            try:
                outputs, states = self.run(tensor(x[:, time], dtype), states, contexts)
            except CallFailed as error:
                raise UnsupportedModule(f"at element {time} of a sequence, {error}") from error
            steps.append(outputs)
        return {
            output.name: np.stack([array(step[output.name]) for step in steps], axis=1)
            for output in self.outputs
        }

    @property
    def _names(self) -> list[str]:
        return [output.name for output in self.outputs]


class CellStep(nn.Module):
    """The module as a step, from `(x, *states, *contexts)` to `(*outputs, *states)`."""

    def __init__(self, subject: CellSubject) -> None:
        super().__init__()
        self.subject = subject
        self.module = precision.twin(subject.module, dict(_operators(subject.module)))

    def forward(self, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        count = len(self.subject.flat)
        arguments = [*self.subject.arguments(others[:count]), *others[count:]]
        outputs, states = self.subject.take(self.module(x, *arguments))
        return (*outputs.values(), *states)


def applies(arguments: ModuleArguments) -> bool:
    """Whether a module with these arguments takes an element and states."""
    return bool(arguments.states)


def original(module: nn.Module, arguments: ModuleArguments, options: Options) -> TorchModule:
    """Returns a module in evaluation mode as an original, with the step model."""
    input, contexts = arguments.input, arguments.contexts
    subject = CellSubject(module=module, outputs=tuple(options.outputs), states=arguments.states)
    dtype = precision.of(module)
    spec = torchmodule.spec(
        description=options.description,
        input=input,
        outputs=torchmodule.output_specs(
            options.outputs, _observe(subject, input, contexts), dtype
        ),
        states=subject.flat,
        time_axis=False,
        contexts=tuple(replace(each, input=each.name) for each in contexts),
    )

    def explain() -> str:
        batch, _ = sizes(module)

        def run() -> Mapping[str, Tensor]:
            return _run(subject, input, contexts, batch, 0)

        return changing(run) or mixing(module, run, batch)

    with explained(explain):
        model = graph.build(CellStep(subject), spec, module)
    model, spec, _ = split(model, spec, {})
    twin = replace(subject, module=precision.twin(module))

    def answer_of_twin(sequences: Sequences) -> Arrays:
        with precision.float32(module):
            return twin.answer(sequences)

    return TorchModule(
        input=input,
        contexts=contexts,
        candidate=Candidate(model=graph.finish(model), spec=spec),
        dtype=dtype,
        outputs_of=subject.answer,
        outputs_of_twin=None if dtype is torch.float32 else answer_of_twin,
        reason=explain,
    )


def _operators(module: nn.Module) -> Iterator[tuple[int, nn.Module]]:
    """Replacements for recurrent submodules by id, as the memo of `copy.deepcopy`."""
    for name, each in module.named_modules():
        if isinstance(each, nn.LSTMCell | nn.GRUCell) and plain(each):
            yield id(each), CellOperator(each)
        elif isinstance(each, nn.RNNBase) and plain(each):
            yield id(each), RecurrentOperator(RecurrentLayers(name=name, module=each))


def _observe(
    subject: CellSubject, input: InputSpec, contexts: Sequence[ContextSpec]
) -> Mapping[str, Tensor]:
    """Returns the outputs for one element per row. Raises `UnsupportedModule` for outputs without a
    batch axis."""
    found = [_run(subject, input, contexts, batch, seed) for seed, batch in enumerate(_BATCHES)]
    for name, value in found[0].items():
        again = found[1][name]
        same = value.shape[1:] == again.shape[1:]
        if not same or (*value.shape[:1], *again.shape[:1]) != _BATCHES:
            raise UnsupportedModule(
                f"output {name!r} has shape {list(value.shape)} for one element each of "
                f"{_BATCHES[0]} rows, and {list(again.shape)} for {_BATCHES[1]}; it must be "
                "['batch', ...]"
            )
    return found[0]


def _run(
    subject: CellSubject, input: InputSpec, contexts: Sequence[ContextSpec], batch: int, seed: int
) -> Mapping[str, Tensor]:
    """Returns the outputs for a random element in each row."""
    rng = np.random.default_rng(seed)
    dtype = precision.of(subject.module)
    x = tensor(random_elements(input, batch, 1, rng)[:, 0], dtype)
    states = [tensor(_rows(state, batch), dtype) for state in subject.flat]
    values = [tensor(each, dtype) for each in random_contexts(contexts, batch, rng).values()]
    return subject.run(x, states, values)[0]


def _rows(state: StateSpec, batch: int) -> np.ndarray:
    """First values of a state for each row, in the module's layout."""
    axis = state.batch_axis
    return np.repeat(np.expand_dims(state.initial_value(), axis), batch, axis)


def _flat(states: States) -> Iterator[StateSpec]:
    if isinstance(states, StateSpec):
        yield states
    else:
        for each in states:
            yield from _flat(each)


def _nested(states: States, tensors: Iterator[Tensor]) -> Any:
    if isinstance(states, StateSpec):
        return next(tensors)
    return tuple(_nested(each, tensors) for each in states)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value
