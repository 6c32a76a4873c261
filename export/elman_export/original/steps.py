"""A step of a module that takes whole sequences, as a torch module for tracing.

Each step takes the elements, the lengths if there is a time axis, the states and the contexts. It
returns the outputs, the new states and the first states computed from contexts. The tensors have
the layout of the step model's spec.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from elman_export.original import precision
from elman_export.original.operators import Carry, RecurrentOperator
from elman_export.original.recurrence import RecurrentLayers
from elman_export.original.subject import Subject, select


class SequenceStep(nn.Module):
    """A step of any number of elements: `x [batch, time, *shape]` and `lengths [batch]`.

    `layers` run in the order of the states. The first states of layers in `computed` are computed
    from the contexts.
    """

    def __init__(
        self,
        subject: Subject,
        layers: Sequence[RecurrentLayers],
        computed: Sequence[RecurrentLayers] = (),
    ) -> None:
        super().__init__()
        operators = {each.module: RecurrentOperator(each) for each in layers}
        self.subject = subject
        self.computed = tuple(operators[each.module] for each in computed)
        self.operators = tuple(operators.values())
        self.states = tuple(name for each in layers for name in each.states)
        # With this memo, deepcopy uses the operators as copies of the layers.
        self.module = precision.twin(
            subject.module, {id(layer): operator for layer, operator in operators.items()}
        )

    def forward(self, x: Tensor, lengths: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        outputs, states = self.run(x, lengths, *others)
        return (*outputs, *states, *self._first())

    def run(
        self, x: Tensor, lengths: Tensor | None, *others: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the outputs and the new states. Outputs have the module's own layout, but always
        batch before time."""
        states, contexts = others[: len(self.states)], others[len(self.states) :]
        carry = Carry(lengths=lengths, before=dict(zip(self.states, states, strict=True)))
        for operator in self.operators:
            operator.carry = carry
        returned = self.module(self.subject.arrange(x), *contexts)
        final = [state for operator in self.operators for state in operator.final]
        found = select(returned, self.subject.outputs, final)
        outputs = [
            tensor if name in self.subject.last_only else self.subject.arrange(tensor)
            for name, tensor in found.items()
        ]
        return outputs, [carry.after[name] for name in self.states]

    def _first(self) -> Iterator[Tensor]:
        for operator in self.computed:
            for layer in range(len(operator.layers)):
                for states in operator.first:
                    yield states[layer : layer + 1]


class ElementStep(SequenceStep):
    """A step of one element, `x [batch, *shape]`, for a module that answers only for the last
    element.

    The module sees each element as a sequence of length 1.
    """

    def forward(self, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        outputs, states = self.run(x.unsqueeze(1), None, *others)
        answers = [
            tensor if output.name in self.subject.last_only else tensor.squeeze(1)
            for output, tensor in zip(self.subject.outputs, outputs, strict=True)
        ]
        return (*answers, *states, *self._first())


def zeros(shape: Sequence[int], dtype: str) -> Tensor:
    """A tensor of zeros in a spec's type, for tracing."""
    return torch.zeros(*shape, dtype=getattr(torch, dtype))
