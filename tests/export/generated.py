"""Networks of every kind that an export takes, small and with seeded weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations, product
from itertools import pairwise as successive
from typing import Any

import torch
from torch import Tensor, nn

import elman_export
from elman_export.interface import States

FEATURES, HIDDEN, SIZE = 5, 7, 3
"""What an element has, a layer, and a projection or an answer."""

LAYERS: Mapping[str, Any] = {
    "rnn": lambda *sizes, **options: nn.RNN(*sizes, **options),
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "lstm": lambda *sizes, **options: nn.LSTM(*sizes, **options),
    "projected": lambda *sizes, **options: nn.LSTM(*sizes, proj_size=SIZE, **options),
    "gru": lambda *sizes, **options: nn.GRU(*sizes, **options),
}
CELLS: Mapping[str, Any] = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
HEADS = ("linear", "two", "last", "final", "residual")


@dataclass(frozen=True)
class Kind:
    """What a generated network is like."""

    cell: str
    layers: int
    batch_first: bool
    head: str
    dtype: str
    bias: bool
    learned: bool

    def __str__(self) -> str:
        return "-".join(str(getattr(self, field.name)) for field in fields(self))


KINDS = [
    Kind(*each)
    for each in product(
        LAYERS, (1, 2, 3), (True, False), HEADS, DTYPES, (True, False), (False, True)
    )
]


def pairwise(kinds: Sequence[Kind]) -> Iterator[Kind]:
    """Some of them, so that any two properties that occur together do so in one of these."""
    pairs = {
        kind: {
            ((one.name, getattr(kind, one.name)), (two.name, getattr(kind, two.name)))
            for one, two in combinations(fields(kind), 2)
        }
        for kind in kinds
    }
    missing = set().union(*pairs.values())
    while missing:
        best = max(pairs, key=lambda kind: len(pairs[kind] & missing))
        missing -= pairs.pop(best)
        yield best


class Network(nn.Module):
    """Whole sequences in; the body, and whichever head the kind says."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        self.inner = nn.Linear(FEATURES, FEATURES)
        self.body = LAYERS[kind.cell](
            FEATURES, HIDDEN, kind.layers, batch_first=kind.batch_first, bias=kind.bias
        )
        size = self.body.proj_size or HIDDEN
        self.head = nn.Linear(size, SIZE)
        self.shape = nn.Linear(FEATURES, size)
        self.h = nn.Parameter(torch.randn(kind.layers, 1, size))
        self.c = nn.Parameter(torch.randn(kind.layers, 1, HIDDEN))

    def forward(self, x: Tensor) -> Any:
        given = self.inner(x).tanh()
        y, last = self.body(given, self._first(len(x) if self.kind.batch_first else x.shape[1]))
        h = last[0] if isinstance(last, tuple) else last
        match self.kind.head:
            case "two":
                return self.head(y), y.square().sum(-1)
            case "last":
                return self.head(y[:, -1] if self.kind.batch_first else y[-1])
            case "final":
                return self.head(h[-1]), last
            case "residual":
                return self.head(y + self.shape(given))
        return self.head(y)

    def _first(self, batch: int) -> Any:
        if not self.kind.learned:
            return None
        h, c = (each.expand(-1, batch, -1).contiguous() for each in (self.h, self.c))
        return (h, c) if isinstance(self.body, nn.LSTM) else h


class Cells(nn.Module):
    """One element and the state of each cell in; cells one on another, and a head."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        sizes = [FEATURES, *[HIDDEN] * kind.layers]
        self.cells = nn.ModuleList(
            [CELLS[kind.cell](*pair, bias=kind.bias) for pair in successive(sizes)]
        )
        self.head = nn.Linear(HIDDEN, SIZE)
        self.shape = nn.Linear(FEATURES, HIDDEN)

    def forward(self, x: Tensor, *states: Any) -> Any:
        given, new = x, []
        for cell, state in zip(self.cells, states, strict=True):
            found = cell(x, state)
            new.append(found)
            x = found[0] if isinstance(found, tuple) else found
        match self.kind.head:
            case "two":
                return self.head(x), x.square().sum(-1), *new
            case "residual":
                return {"y0": self.head(x + self.shape(given))}, *new
        return self.head(x), *new

    def states(self) -> Sequence[States]:
        return [
            (self._state(f"h{number}"), self._state(f"c{number}"))
            if self.kind.cell == "lstm"
            else self._state(f"h{number}")
            for number in range(self.kind.layers)
        ]

    def _state(self, name: str) -> States:
        initial = torch.randn(HIDDEN) if self.kind.learned else None
        return elman_export.state(name, HIDDEN, initial=initial)


_HEADS_OF_CELLS = ("linear", "two", "residual")

CELL_KINDS = [
    Kind(*each)
    for each in product(
        CELLS, (1, 2, 3), (True,), _HEADS_OF_CELLS, DTYPES, (True, False), (False, True)
    )
]
