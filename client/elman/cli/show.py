"""Predictions for people and for scripts: which outputs to ask for, and how to print them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from rich.text import Text

from elman import Alternative, Model, Output, OutputChoice, OutputKind, Prediction, Raw, Top
from elman.cli.bar import bar
from elman.cli.elements import Element

_SHOWN = 8
"""Numbers of an array that are printed before the rest is only counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The outputs of a model that are shown, those with alternatives by their best `top`."""

    outputs: tuple[Output, ...]
    top: int

    @staticmethod
    def of(model: Model, names: Sequence[str], top: int) -> "View":
        """The named outputs in that order, or all. Raises `LookupError` saying which there are."""
        known = {output.name: output for output in model.outputs}
        for name in names:
            if name not in known:
                allowed = ", ".join(known)
                raise LookupError(f"{model.name!r} has no output {name!r}; it has {allowed}")
        return View(outputs=tuple(known[name] for name in names or known), top=top)

    def choices(self) -> list[OutputChoice]:
        """What to ask the server for, so that it sends no more than is shown."""
        return [
            Top(output.name, self._count(output)) if _has_alternatives(output) else Raw(output.name)
            for output in self.outputs
        ]

    def text(self, element: Element, prediction: Prediction) -> Text:
        """One line."""
        shown = repr(element.text) if isinstance(element.value, str) else element.text
        line = Text.assemble((f"{shown:<4}", "bold"), " ")
        for i, output in enumerate(self.outputs):
            if i:
                line.append("  ")
            if len(self.outputs) > 1:
                line.append(f"{output.name} ", "dim")
            line.append_text(self._output(output, prediction))
        return line

    def document(self, session: int, element: Element, prediction: Prediction) -> str:
        """One line of JSON."""
        value = element.value
        return json.dumps(
            {
                "session": session,
                "position": prediction.position,
                "element": value.tolist() if isinstance(value, np.ndarray) else value,
                "outputs": {o.name: self._value(o, prediction) for o in self.outputs},
            },
            ensure_ascii=False,
        )

    def _count(self, output: Output) -> int:
        return min(self.top, output.shape[-1])

    def _alternatives(self, output: Output, prediction: Prediction) -> list[Alternative]:
        return prediction.top(self._count(output), output.name)

    def _output(self, output: Output, prediction: Prediction) -> Text:
        if _has_alternatives(output):
            found = self._alternatives(output, prediction)
            words = [(_label(entry), f" {entry.probability:.3f}  ") for entry in found]
            return Text.assemble(*((t, s) for w, p in words for t, s in ((w, "bold"), (p, ""))))
        value = prediction[output.name]
        if output.kind is OutputKind.PROBABILITIES and not output.shape:
            return Text.assemble(bar(value), f" {value:.3f}")
        if not output.shape:
            return Text(f"{value:.6g}")
        numbers = " ".join(f"{number:.4g}" for number in value.flat[:_SHOWN])
        rest = prod(output.shape) - _SHOWN
        return Text(f"{numbers} and {rest:,} more" if rest > 0 else numbers)

    def _value(self, output: Output, prediction: Prediction) -> object:
        if _has_alternatives(output):
            return [entry._asdict() for entry in self._alternatives(output, prediction)]
        value = prediction[output.name]
        return value.tolist() if isinstance(value, np.ndarray) else value


def _has_alternatives(output: Output) -> bool:
    return output.kind is not OutputKind.VALUES and len(output.shape) == 1


def _label(entry: Alternative) -> str:
    label = entry.label
    return repr(label) if isinstance(label, str) and len(label) == 1 else str(label)
