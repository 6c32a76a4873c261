"""A step model that is not proved yet, and what it has to be equal to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import onnx
import torch
from torch import Tensor

from elman_export.errors import ExportError, UnsupportedModule
from elman_export.interface import Output
from elman_export.original import precision
from elman_export.original.explain import explained
from elman_export.proof.proof import Case, Proof, Sequences, answered, prove
from elman_export.proof.stepmodel import Arrays, StepModel
from elman_server.model.spec import DType, ModelSpec, OutputSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A step model, and the module that it was made of."""

    model: onnx.ModelProto
    spec: ModelSpec
    initial: onnx.ModelProto | None = None
    """The initial-state network, if there is one."""
    dtype: torch.dtype
    """The type that the module computes in."""
    answer: Callable[[Sequences], Arrays]
    """What the module says to whole sequences, `[batch, time, *shape]` by output name."""
    twin: Callable[[Sequences], Arrays] | None = None
    """What the module would say in float32; None for a module that computes in it."""
    explain: Callable[[], str]
    """Which submodule is why the proof fails, if one is found."""

    def cases(self, sequences: Sequence[Sequences]) -> list[Case]:
        return answered(sequences, self.answer)

    def prove(self, cases: Sequence[Case], *, seed: int, tolerance: float | None) -> Proof:
        """Proves the step model on `cases` of this draft; see `elman_export.proof.proof.prove`.

        `tolerance` is by default what the module's type allows. A module of another type than
        float32 is compared in float32 first, to float32's tolerance.
        """
        model = StepModel.of(self.model, self.spec, self.initial)
        if tolerance is None:
            tolerance = precision.tolerance(self.dtype, [case.expected for case in cases])
        with explained(self.explain):
            if self.twin is not None:
                close = precision.tolerance(torch.float32, ())
                named = "module's float32 copy"
                twins = [Case(case.sequences, self.twin(case.sequences)) for case in cases]
                prove(model, twins, seed=seed, tolerance=close, original=named)
            return prove(model, cases, seed=seed, tolerance=tolerance)


def output_specs(
    outputs: Sequence[Output], found: Mapping[str, Tensor], dtype: torch.dtype
) -> tuple[OutputSpec, ...]:
    """What is given for one element: `found` are `[batch, *shape]`, of a module that computes in
    `dtype`. Raises `UnsupportedModule` for other floating types than that."""
    specs = []
    for output in outputs:
        value = found[output.name]
        kind = str(value.dtype).removeprefix("torch.")
        if value.dtype in (dtype, torch.float32):
            kind = "float32"
        elif value.dtype.is_floating_point or value.dtype.is_complex:
            raise UnsupportedModule(
                f"output {output.name!r} is {kind}; supported are float32 or the module's own "
                "type, integers and bool"
            )
        specs.append(
            OutputSpec(
                name=output.name,
                kind=output.kind,
                dtype=cast(DType, kind),
                shape=tuple(value.shape[1:]),
                labels=output.labels,
            )
        )
    return tuple(specs)


def spec(**fields: Any) -> ModelSpec:
    """A `ModelSpec` whose tensors have names of their own. Raises `ExportError` for a misfit."""
    made = ModelSpec(**fields)
    taken = {made.input.name, made.lengths, *(state.input for state in made.states)}
    taken.update(context.name for context in made.contexts)
    given = [*(output.name for output in made.outputs), *(state.output for state in made.states)]
    for name in given:
        if name in taken:
            raise ExportError(f"{name!r} is the name of an input and of an output; rename one")
    return made
