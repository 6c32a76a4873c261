"""Two networks to compare, with different recurrent layers and initial weights."""

from typing import Literal

import torch
from torch import Tensor, nn

from examples.horizon.task import Task

Init = Literal["default", "orthogonal", "identity", "forget bias 1", "long forget bias"]

INITS: dict[str, tuple[Init, ...]] = {
    "RNN": ("default", "orthogonal", "identity"),
    "LSTM": ("default", "forget bias 1", "long forget bias"),
}
"""Initialisations, by kind of network."""

_EMBEDDED = 16


class Recaller(nn.Module):
    """Ids in, `[batch, time]`; logits of the answer after each id, `[batch, time, answers]`."""

    def __init__(self, task: Task, kind: str, init: Init, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(task.names), _EMBEDDED)
        layer = {"RNN": nn.RNN, "LSTM": nn.LSTM}[kind]
        self.body = layer(_EMBEDDED, hidden, batch_first=True)
        self.head = nn.Linear(hidden, len(task.labels))
        initialise(self.body, init, longest=max(task.lags))

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.body(self.embedding(x))
        answers: Tensor = self.head(hidden)
        return answers


@torch.no_grad()
def initialise(body: nn.RNNBase, init: Init, *, longest: int) -> None:
    """Sets the recurrent layer's initial weights.

    `default` are torch's: uniform within hidden ** -0.5. `orthogonal`: Saxe et al. 2014.
    `identity`: Le, Jaitly & Hinton 2015, with small input weights. `forget bias 1`: Gers,
    Schmidhuber & Cummins 2000, Jozefowicz et al. 2015. `long forget bias`: Tallec & Ollivier 2018,
    biases at which a cell forgets over 1 to some `longest` elements.
    """
    recurrent, into = body.get_parameter("weight_hh_l0"), body.get_parameter("weight_ih_l0")
    biases = body.get_parameter("bias_ih_l0"), body.get_parameter("bias_hh_l0")
    if init == "default":
        return
    if init == "orthogonal":
        nn.init.orthogonal_(recurrent)
        return
    for bias in biases:
        nn.init.zeros_(bias)
    if init == "identity":
        nn.init.eye_(recurrent)
        nn.init.normal_(into, std=0.1)
        return
    # torch's order of gates: input, forget, cell, output.
    input_gate, forget_gate, *_ = biases[0].chunk(4)
    if init == "forget bias 1":
        forget_gate.fill_(1.0)
    else:
        forget_gate.copy_(torch.log(1 + (longest - 2) * torch.rand(body.hidden_size)))
        input_gate.copy_(-forget_gate)
