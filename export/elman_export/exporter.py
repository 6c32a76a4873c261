"""`export`: from a trained module to a step model's file, proved before it is kept."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
from pydantic import ValidationError
from torch import nn

from elman_export import graph, recurrence
from elman_export.errors import ExportError, UnsupportedModule
from elman_export.interface import Output
from elman_export.keep import Report, keep
from elman_export.observation import Observation, observe
from elman_export.proof import TOLERANCE, Sequences, prove
from elman_export.sample import random_elements
from elman_export.stepmodel import StepModel
from elman_export.subject import Subject
from elman_server.spec import (
    DType,
    InputSpec,
    ModelSpec,
    OutputSpec,
    StateSpec,
)

_LENGTHS = "lengths"

_SAMPLES = ((13, 20), (2, 1), (1, 7))
"""(batch, time) of the random sequences that a proof runs on."""


def export(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    input: InputSpec,
    outputs: Sequence[Output],
    description: str = "",
    batch_first: bool | None = None,
    examples: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Report:
    """Writes `module` as a step model to `path`, after proving that it is the same network.

    `module(x)` takes whole sequences, `[batch, time, *shape]`, or `[time, batch, *shape]` where its
    layers are not `batch_first`; it returns a tensor, a sequence or a dict of tensors with those
    two axes first. Its state lives in `nn.RNN`, `nn.LSTM` and `nn.GRU` submodules, each run once
    per sequence; everything else treats each element by itself. Final states that it returns beside
    its outputs are left out. It is run in evaluation mode, and left in the mode that it was in.

    `input` and `outputs` say what the tensors mean (`elman_export.text`, `elman_export.logits`,
    ...); a dict's outputs are found by name, others by order. `batch_first` is taken from the
    layers unless given. `examples`, `[batch, time, *shape]`, are compared beside seeded random
    sequences. `tolerance` bounds the difference from the module (see
    `elman_export.proof.TOLERANCE`); the step model's own answers must be equal however a sequence
    is cut up.

    Raises `UnsupportedModule` for a module that can't become a step model, `ProofFailed` for a step
    model that is not the same network, and `ExportError` for names, labels or examples that don't
    fit. Nothing is written then, and a file that was there before stays.
    """
    sequences = _sequences(input, examples, seed)
    with _evaluation(module):
        layers = recurrence.find(module)
        subject = Subject(
            module=module,
            layers=layers,
            outputs=tuple(outputs),
            batch_first=layers[0].module.batch_first if batch_first is None else batch_first,
        )
        observation = observe(subject, input)
        try:
            spec = _spec(subject, observation, input, description)
        except ValidationError as error:
            raise ExportError("; ".join(each["msg"] for each in error.errors())) from None
        model = graph.build(subject, observation.layers, spec)
        proof = prove(
            lambda each: subject.answer(each.elements),
            StepModel(model.SerializeToString(), spec),
            sequences,
            seed=seed,
            tolerance=tolerance,
        )
    return keep(model, spec, proof, path)


def _sequences(input: InputSpec, examples: np.ndarray | None, seed: int) -> list[Sequences]:
    """What the proof runs on: random sequences and the caller's examples."""
    rng = np.random.default_rng(seed)
    sequences = [
        Sequences(elements=random_elements(input, batch, time, rng)) for batch, time in _SAMPLES
    ]
    if examples is not None:
        if examples.ndim != 2 + len(input.shape) or examples.shape[2:] != input.shape:
            raise ExportError(
                f"examples have shape {list(examples.shape)}; expected is "
                f"{['batch', 'time', *input.shape]}"
            )
        sequences.append(Sequences(elements=examples.astype(input.dtype), source="examples"))
    return sequences


def _spec(
    subject: Subject, observation: Observation, input: InputSpec, description: str
) -> ModelSpec:
    outputs = []
    for output in subject.outputs:
        found = observation.outputs[output.name]
        if found.dtype != np.float32 and found.dtype.kind not in "ib":
            raise UnsupportedModule(
                f"output {output.name!r} is {found.dtype}; only float32, integers and bool are "
                "supported"
            )
        outputs.append(
            OutputSpec(
                name=output.name,
                kind=output.kind,
                dtype=cast(DType, str(found.dtype)),
                shape=found.shape[2:],
                labels=output.labels,
            )
        )
    states = []
    for layers in observation.layers:
        for name in layers.state_names:
            initial = observation.initial.get(name)
            states.append(
                StateSpec(
                    name=name,
                    input=name,
                    output=f"{name}.next",
                    dtype="float32",
                    shape=(1, layers.module.hidden_size),
                    batch_axis=1,
                    initial=None if initial is None else tuple(initial.tolist()),
                )
            )
    spec = ModelSpec(
        description=description,
        input=input,
        outputs=tuple(outputs),
        states=tuple(states),
        time_axis=True,
        lengths=_LENGTHS,
    )
    taken = {input.name, _LENGTHS, *(state.input for state in states)}
    given = [*(output.name for output in outputs), *(state.output for state in states)]
    for name in given:
        if name in taken:
            raise ExportError(f"{name!r} is the name of an input and of an output; rename one")
    return spec


@contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    """Puts every submodule in evaluation mode, and back in its own mode afterwards."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training
