"""The caller's expected outputs for given sequences."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from elman_export.errors import ExportError, ProofFailed
from elman_export.proof.proof import Comparison
from elman_export.proof.stepmodel import Arrays
from elman_server.model.spec import InputKind, ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    examples: np.ndarray | None = None
    """`[batch, time, *shape]` in the input's type."""
    outputs: Arrays = field(default_factory=dict)
    """`[batch, time, *shape]` by output."""

    @staticmethod
    def of(
        spec: ModelSpec, examples: np.ndarray | None, expected: Mapping[str, np.ndarray]
    ) -> "Expectation":
        """Checks examples and expected outputs. Raises `ExportError` for a mismatch with the spec,
        or between examples and outputs."""
        if examples is None:
            if expected:
                raise ExportError("expected outputs need the examples that they are for")
            return Expectation()
        elements = _sequences("examples", examples, spec.input.shape)
        if spec.input.kind is InputKind.FEATURES:
            if not np.isfinite(elements).all():
                raise ExportError("examples hold a value that is not finite")
        elif (
            elements.dtype.kind not in "iu"
            or not ((elements >= 0) & (elements < spec.input.size)).all()
        ):
            raise ExportError(f"examples must be ids from 0 to {spec.input.size - 1}")
        by_name = {each.name: each for each in spec.outputs}
        outputs = {}
        for name, value in expected.items():
            if name not in by_name:
                raise ExportError(
                    f"expected names output {name!r}; the step model's are "
                    f"{', '.join(map(repr, by_name))}"
                )
            shape = by_name[name].shape
            wanted = (*elements.shape[:2], *shape)
            if value.size != int(np.prod(wanted)):
                raise ExportError(
                    f"expected output {name!r} has shape {list(value.shape)}; for the examples it "
                    f"is {list(wanted)}"
                )
            outputs[name] = value.reshape(wanted)
        return Expectation(examples=elements.astype(spec.input.dtype), outputs=outputs)

    def compare(self, found: Arrays, tolerance: float) -> list[Comparison]:
        """Compares `found` with the expected outputs. Raises `ProofFailed` if the difference is too
        large."""
        comparisons = []
        for name, value in self.outputs.items():
            scale = max(1.0, float(np.abs(value.astype(float)).max(initial=0)))
            maximum = float(np.abs(found[name].astype(float) - value).max(initial=0))
            if not maximum <= tolerance * scale:
                raise ProofFailed(
                    f"output {name!r} differs by {maximum:.3g} from what was expected for the "
                    f"examples; allowed are {tolerance * scale:.3g}: are constants, overlap and "
                    "the states' pairs right?"
                )
            comparisons.append(
                Comparison(
                    output=name,
                    input="examples",
                    way="what was expected",
                    maximum=maximum,
                    exact=True,
                )
            )
        return comparisons


def _sequences(what: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if values.ndim == 1 + len(shape):
        values = values[None]
    if values.ndim != 2 + len(shape) or values.shape[2:] != shape or not values.size:
        raise ExportError(
            f"{what} have shape {list(values.shape)}; expected is {['batch', 'time', *shape]}"
        )
    return values
