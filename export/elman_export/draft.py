"""A step model before the proof, with a reference for the comparison."""

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
    """A step model and the behaviour of the exported module."""

    model: onnx.ModelProto
    spec: ModelSpec
    initial: onnx.ModelProto | None = None
    """The initial-state network, if there is one."""
    dtype: torch.dtype
    """Number type of the module's computation."""
    answer: Callable[[Sequences], Arrays]
    """Returns the module's outputs for whole sequences, `[batch, time, *shape]` by output name."""
    twin: Callable[[Sequences], Arrays] | None = None
    """Returns the outputs of the module's float32 twin; `None` for a float32 module."""
    explain: Callable[[], str]
    """Returns the reason for a failed proof, with the submodule; empty if unknown."""

    def cases(self, sequences: Sequence[Sequences]) -> list[Case]:
        return answered(sequences, self.answer)

    def prove(self, cases: Sequence[Case], *, seed: int, tolerance: float | None) -> Proof:
        """Proves the step model on `cases` of this draft; see `elman_export.proof.proof.prove`.

        The default `tolerance` depends on the module's type. A module of another type than float32
        is first compared in float32, to float32's tolerance.
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
    """Returns specs for `found`, the outputs `[batch, *shape]` for one element. The module computes
    in `dtype`. Raises `UnsupportedModule` for floating types other than `dtype` and float32."""
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
    """Returns a `ModelSpec`. Raises `ExportError` if an input and an output have the same name."""
    made = ModelSpec(**fields)
    taken = {made.input.name, made.lengths, *(state.input for state in made.states)}
    taken.update(context.name for context in made.contexts)
    given = [*(output.name for output in made.outputs), *(state.output for state in made.states)]
    for name in given:
        if name in taken:
            raise ExportError(f"{name!r} is the name of an input and of an output; rename one")
    return made
