"""What a module does when it runs: which recurrent layers, from which states, to which outputs.

`observe` runs a module on two small batches of different sizes and refuses what can't answer
element by element. It knows nothing of ONNX.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from elman_export.errors import UnsupportedModule
from elman_export.recurrence import RecurrentLayers
from elman_export.sample import random_elements
from elman_export.subject import Call, Subject
from elman_server.spec import InputSpec

_SIZES = ((2, 3), (4, 5))
"""(batch, time) of the runs: four different numbers, so that axes can't be taken for one another.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a module was seen to do, the same in every run."""

    layers: tuple[RecurrentLayers, ...]
    """Those that ran, in the order in which they did."""
    initial: Mapping[str, np.ndarray]
    """By state name, `[hidden]`: the initial states that the module gives its layers, if not zeros.
    """
    outputs: Mapping[str, np.ndarray]
    """By output name, `[batch, time, *shape]`: those of one run, for their shapes and types."""


def observe(subject: Subject, input: InputSpec) -> Observation:
    """Runs the module and says what it saw.

    Raises `UnsupportedModule` for a layer that runs twice or along another axis than time, for
    initial states that differ between rows, and for outputs that are not one per element.
    """
    runs = []
    for seed, (batch, time) in enumerate(_SIZES):
        run = subject.run(random_elements(input, batch, time, np.random.default_rng(seed)))
        axes = (batch, time) if subject.batch_first else (time, batch)
        for call in run.calls:
            _check_axes(call, batch, time)
        for name, value in run.outputs.items():
            _check_output(name, value, axes, batch, time)
        runs.append(run)
    names = [[call.layers.name for call in run.calls] for run in runs]
    _check_layers(subject, *names)
    return Observation(
        layers=tuple(call.layers for call in runs[-1].calls),
        initial=_initial([run.calls for run in runs]),
        outputs={name: subject.arrange(value).numpy() for name, value in runs[-1].outputs.items()},
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
    shape = list(call.given.shape)
    if len(shape) != 3 or shape[:2] != ([batch, time] if batch_first else [time, batch]):
        raise UnsupportedModule(
            f"{call.layers.name!r} (batch_first={batch_first}) is given {shape} for a batch of "
            f"{batch} sequences of {time} elements, so it does not run along time, one for one; "
            "if the module's own input is laid out otherwise than its first layer's, pass "
            "batch_first to export"
        )


def _check_output(name: str, value: Tensor, axes: tuple[int, int], batch: int, time: int) -> None:
    shape = list(value.shape)
    if tuple(shape[:2]) == axes:
        return
    message = (
        f"output {name!r} has shape {shape} for a batch of {batch} sequences of {time} elements"
    )
    if time in shape:
        raise UnsupportedModule(f"{message}; it must begin with {list(axes)}")
    raise UnsupportedModule(
        f"{message}: it has no time axis, and a stream has no last step to read. Apply the head to "
        "every step's output, so that each element has its prediction"
    )


def _initial(runs: Sequence[Sequence[Call]]) -> Mapping[str, np.ndarray]:
    """The initial states that every row of every run was given, where they are not zeros."""
    initial: dict[str, np.ndarray] = {}
    for calls in zip(*runs, strict=True):
        layers = calls[0].layers
        for index, part in enumerate(layers.parts if calls[0].initial else ()):
            rows = torch.cat([call.initial[index] for call in calls], dim=1)
            if not torch.equal(rows, rows[:, :1].expand_as(rows)):
                raise UnsupportedModule(
                    f"{layers.name!r} is given initial states ({part}) that differ from row to "
                    "row; a step model starts every session from the same ones"
                )
            for layer, row in enumerate(rows[:, 0].detach().numpy()):
                if row.any():
                    initial[f"{layers.name}.{layer}.{part}"] = row
    return initial
