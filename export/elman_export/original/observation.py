"""Observation of a running module: recurrent layers, their initial states and the outputs.

`observe` runs a module on two small batches of different sizes. It rejects modules that can't
answer element by element. This module does not depend on ONNX.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from elman_export.errors import UnsupportedModule
from elman_export.original.calling import array
from elman_export.original.recurrence import RecurrentLayers
from elman_export.original.subject import Call, Run, Subject
from elman_export.proof.sample import random_contexts, random_elements
from elman_server.model.spec import ContextSpec, InputSpec

_SIZES = ((2, 3), (4, 5))
"""(batch, time) of the runs: four different numbers, so that no axes can be confused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Behaviour of a module, equal in every run."""

    layers: tuple[RecurrentLayers, ...]
    """Layers that ran, in the order of execution."""
    initial: Mapping[str, np.ndarray]
    """Initial states given to the layers, if not zeros: `[hidden]` by state name."""
    outputs: Mapping[str, Tensor]
    """`[batch, *shape]` by output name: outputs for the last element of a run, for shapes and
    types."""
    last_only: tuple[str, ...]
    """Outputs given only for the last element of a sequence."""
    computed: tuple[RecurrentLayers, ...]
    """Layers with initial states computed from the contexts."""


def observe(
    subject: Subject, input: InputSpec, contexts: Sequence[ContextSpec] = ()
) -> Observation:
    """Runs the module and returns an observation.

    Raises `UnsupportedModule` for a layer that runs twice or along another axis than time, for
    initial states that differ between rows, and for outputs given neither per element nor per
    sequence.
    """
    runs = []
    for seed, (batch, time) in enumerate(_SIZES):
        rng = np.random.default_rng(seed)
        elements = random_elements(input, batch, time, rng)
        run = subject.run(elements, list(random_contexts(contexts, batch, rng).values()))
        for call in run.calls:
            _check_axes(call, batch, time)
        runs.append(run)
    names = [[call.layers.name for call in run.calls] for run in runs]
    _check_layers(subject, *names)
    last_only = tuple(
        output.name for output in subject.outputs if _last_only(subject, output.name, runs)
    )
    initial: dict[str, np.ndarray] = {}
    computed = []
    for first, second in zip(runs[0].calls, runs[1].calls, strict=True):
        if contexts and not _constant(first, second):
            computed.append(first.layers)
        else:
            initial.update(_initial(first, second))
    return Observation(
        layers=tuple(call.layers for call in runs[-1].calls),
        initial=initial,
        computed=tuple(computed),
        outputs={
            name: value if name in last_only else subject.arrange(value)[:, -1]
            for name, value in runs[-1].outputs.items()
        },
        last_only=last_only,
    )


def _check_layers(subject: Subject, names: Sequence[str], again: Sequence[str]) -> None:
    if names != again:
        raise UnsupportedModule("which of the module's recurrent layers run depends on its input")
    if not names:
        layers = ", ".join(repr(layers.name) for layers in subject.layers)
        raise UnsupportedModule(f"the module never runs its recurrent layers ({layers})")
    for name in names:
        if names.count(name) > 1:
            raise UnsupportedModule(
                f"{name!r} runs {names.count(name)} times for one sequence, and each pass would "
                "need a state of its own; make it as many layers"
            )


def _check_axes(call: Call, batch: int, time: int) -> None:
    batch_first = call.layers.module.batch_first
    shape = list(call.input.shape)
    if len(shape) != 3 or shape[:2] != ([batch, time] if batch_first else [time, batch]):
        raise UnsupportedModule(
            f"{call.layers.name!r} (batch_first={batch_first}) is given {shape} for a batch of "
            f"{batch} sequences of {time} elements, so it does not run along time, one for one; "
            "if the module's own input is laid out otherwise than its first layer's, pass "
            "batch_first to export"
        )


def _last_only(subject: Subject, name: str, runs: Sequence[Run]) -> bool:
    """Whether an output is `[batch, *shape]`, without an axis for the elements.

    Raises `UnsupportedModule` if the output has neither shape.
    """
    shapes = [tuple(run.outputs[name].shape) for run in runs]
    fronts = [size if subject.batch_first else size[::-1] for size in _SIZES]
    if all(shape[:2] == front for shape, front in zip(shapes, fronts, strict=True)):
        return False
    batches = [(batch, *shapes[0][1:]) for batch, _ in _SIZES]
    if shapes == batches:
        return True
    (batch, time), shape, front = _SIZES[0], list(shapes[0]), list(fronts[0])
    raise UnsupportedModule(
        f"output {name!r} has shape {shape} for a batch of {batch} sequences of {time} elements; "
        f"it must begin with {front}, or be {[batch, '...']} for the last element only"
    )


def _constant(*calls: Call) -> bool:
    """Whether all rows of all calls got the same initial states."""
    parts = zip(*(call.initial for call in calls), strict=True)
    return all(_alike(torch.cat(rows, dim=1)) for rows in parts)


def _alike(rows: Tensor) -> bool:
    return torch.equal(rows, rows[:, :1].expand_as(rows))


def _initial(*calls: Call) -> Mapping[str, np.ndarray]:
    """Initial states given to every row of every call, if not zeros."""
    initial: dict[str, np.ndarray] = {}
    layers = calls[0].layers
    for index, part in enumerate(layers.parts if calls[0].initial else ()):
        rows = torch.cat([call.initial[index] for call in calls], dim=1)
        if not _alike(rows):
            raise UnsupportedModule(
                f"{layers.name!r} is given initial states ({part}) that differ from row to "
                "row; a step model starts every session from the same ones, unless contexts are "
                "named to compute them from"
            )
        for layer, row in enumerate(array(rows[:, 0])):
            if row.any():
                initial[f"{layers.name}.{layer}.{part}"] = row
    return initial
