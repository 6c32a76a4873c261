"""Predictions for people and for scripts: choice of outputs, and format."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from rich.text import Text

from elman import InputKind, Model, Output, OutputChoice, OutputKind, Prediction, Raw, Top
from elman.cli.bar import WIDTH, bar
from elman.cli.document import document
from elman.cli.elements import Element

_SHOWN = 8
"""Limit of printed numbers of an array; the rest is only counted."""
_ELEMENT = 24
"""Limit of cells for an element's text on a terminal; the rest is cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Outputs to show; for outputs with alternatives, the best `top` entries."""

    outputs: tuple[Output, ...]
    top: int
    names: tuple[str, ...] = ()
    """Names of a token model's ids, if the model has names."""

    @staticmethod
    def of(model: Model, names: Sequence[str], top: int) -> "View":
        """Returns a view of the named outputs in order, or of all outputs.

        Raises `LookupError` with the known outputs for an unknown name.
        """
        known = {output.name: output for output in model.outputs}
        for name in names:
            if name not in known:
                allowed = ", ".join(known)
                raise LookupError(f"{model.name!r} has no output {name!r}; it has {allowed}")
        tokens = model.input.vocabulary if model.input.kind is InputKind.TOKENS else ()
        return View(outputs=tuple(known[name] for name in names or known), top=top, names=tokens)

    def choices(self) -> list[OutputChoice]:
        """Outputs to request from the server: only the outputs and entries shown."""
        return [
            Top(output.name, self._count(output)) if _has_alternatives(output) else Raw(output.name)
            for output in self.outputs
        ]

    def text(self, element: Element, prediction: Prediction, width: int | None = None) -> Text:
        """Returns a line of text.

        With a `width`, bars shrink to fit the numbers into the width, and a long element is cut.
        The line may still be longer.
        """
        line = self._line(element, prediction, width, WIDTH)
        bars = sum(map(_is_bar, self.outputs))
        if width is not None and bars and line.cell_len > width:
            shorter = -(-(line.cell_len - width) // bars)
            line = self._line(element, prediction, width, max(0, WIDTH - shorter))
        return line

    def _line(
        self, element: Element, prediction: Prediction, width: int | None, bar_width: int
    ) -> Text:
        shown = repr(element.text) if isinstance(element.value, str) else element.text
        if width is not None and len(shown) > _ELEMENT:
            shown = shown[: _ELEMENT - 1] + "…"
        line = Text.assemble((f"{shown:<4}", "bold"), " ")
        for i, output in enumerate(self.outputs):
            if i:
                line.append("  ")
            if len(self.outputs) > 1:
                line.append(f"{output.name} ", "dim")
            line.append_text(self._output(output, prediction, bar_width))
        line.rstrip()
        return line

    def document(self, session: int, element: Element, prediction: Prediction) -> str:
        """Returns a line of JSON."""
        value = element.value
        return document(
            {
                "session": session,
                "position": prediction.position,
                "element": value.tolist() if isinstance(value, np.ndarray) else value,
                "outputs": {o.name: self._value(o, prediction) for o in self.outputs},
            }
        )

    def _count(self, output: Output) -> int:
        return min(self.top, output.shape[-1])

    def _alternatives(self, output: Output, prediction: Prediction) -> Iterator[tuple[int, float]]:
        """Yields the requested entries as pairs of index and value; values may be NaN."""
        alternatives = prediction[output.name]
        yield from zip(alternatives.indices.tolist(), alternatives.values.tolist(), strict=True)

    def _output(self, output: Output, prediction: Prediction, bar_width: int) -> Text:
        if _has_alternatives(output):
            named = len(self.names) == output.shape[-1]
            names = output.labels or (self.names if named else ())
            alternatives = self._alternatives(output, prediction)
            words = [
                (_label(names[index]) if names else str(index), f" {probability:.3f}  ")
                for index, probability in alternatives
            ]
            return Text.assemble(*((t, s) for w, p in words for t, s in ((w, "bold"), (p, ""))))
        value = prediction[output.name]
        if _is_bar(output):
            return Text.assemble(bar(value, bar_width), " " * (bar_width > 0), f"{value:.3f}")
        if not output.shape:
            return Text(f"{value:.6g}")
        numbers = " ".join(f"{number:.4g}" for number in value.flat[:_SHOWN])
        rest = prod(output.shape) - _SHOWN
        return Text(f"{numbers} and {rest:,} more" if rest > 0 else numbers)

    def _value(self, output: Output, prediction: Prediction) -> object:
        if _has_alternatives(output):
            return [
                {
                    "label": output.labels[index] if output.labels else index,
                    "probability": probability,
                }
                for index, probability in self._alternatives(output, prediction)
            ]
        value = prediction[output.name]
        return value.tolist() if isinstance(value, np.ndarray) else value


def _has_alternatives(output: Output) -> bool:
    return output.kind is not OutputKind.VALUES and len(output.shape) == 1


def _is_bar(output: Output) -> bool:
    return output.kind is OutputKind.PROBABILITIES and not output.shape


def _label(label: str) -> str:
    """Formats a label: a character in quotes, a longer name unchanged, control characters
    escaped."""
    return label if len(label) > 1 and label.isprintable() else repr(label)
