"""A torch module with a step model traced from the module, and specs from a module's outputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from elman_export.candidate import Candidate
from elman_export.errors import ExportError, UnsupportedModule
from elman_export.interface import Output
from elman_export.original import precision
from elman_export.pipeline import Original
from elman_export.proof.proof import TOLERANCE, Case, Sequences, prove
from elman_export.proof.stepmodel import Arrays, StepModel
from elman_server.model.spec import ContextSpec, DType, InputSpec, ModelSpec, OutputSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchModule(Original):
    """A module in evaluation mode, and the step model traced from the module."""

    noun: ClassVar[str] = "module"
    exact: ClassVar[bool] = True

    input: InputSpec
    contexts: Sequence[ContextSpec]
    candidate: Candidate
    dtype: torch.dtype
    """Number type of the module's computation."""
    outputs_of: Callable[[Sequences], Arrays]
    """Returns the module's outputs for whole sequences, `[batch, time, *shape]` by output name."""
    outputs_of_twin: Callable[[Sequences], Arrays] | None = None
    """Returns the outputs of the module's float32 twin; `None` for a float32 module."""
    reason: Callable[[], str]
    """Returns the reason for a failed proof, with the submodule; empty if unknown."""

    def answer(self, sequences: Sequences) -> Arrays:
        return self.outputs_of(sequences)

    def candidates(self) -> Sequence[Callable[[], Candidate]]:
        return [lambda: self.candidate]

    def tolerance(self, cases: Sequence[Case]) -> float:
        """Returns the default tolerance for the module's type."""
        return precision.tolerance(self.dtype, [case.expected for case in cases])

    def check(self, model: StepModel, cases: Sequence[Case], seed: int) -> None:
        """Compares the step model with the float32 twin, if any, to float32's tolerance."""
        if self.outputs_of_twin is None:
            return
        twins = [Case(case.sequences, self.outputs_of_twin(case.sequences)) for case in cases]
        prove(model, twins, seed=seed, tolerance=TOLERANCE, original="module's float32 copy")

    def explain(self) -> str:
        return self.reason()


def output_specs(
    outputs: Sequence[Output], values: Mapping[str, Tensor], dtype: torch.dtype
) -> tuple[OutputSpec, ...]:
    """Returns specs for `values`, the outputs `[batch, *shape]` for one element.

    The module computes in `dtype`. Raises `UnsupportedModule` for floating types
    other than `dtype` and float32.
    """
    specs = []
    for output in outputs:
        value = values[output.name]
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
    names = [*(output.name for output in made.outputs), *(state.output for state in made.states)]
    for name in names:
        if name in taken:
            raise ExportError(f"{name!r} is the name of an input and of an output; rename one")
    return made
