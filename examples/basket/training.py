"""Training of the network, and its accuracy for the next item."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import elman_export
from elman_export.recipes import training
from examples.basket.shop import ITEMS, LONGEST, baskets, held_out

_BATCH = 64
_SKIPPED = -100
"""Target without cross entropy: the positions after a basket's end."""


class NextItem(nn.Module):
    """Ids `[batch, time]` in; logits of the next item, `[batch, time, items]`."""

    def __init__(self, hidden: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ITEMS), 16)
        self.gru = nn.GRU(16, hidden, batch_first=True)
        self.head = nn.Linear(hidden, len(ITEMS))

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.gru(self.embedding(x))
        logits: Tensor = self.head(hidden)
        return logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Shares of next items in new baskets that were among..."""

    network: Mapping[int, float]
    """...the network's k most probable items, by k."""
    frequent: Mapping[int, float]
    """...the k most frequent items outside the basket so far."""


def train(*, steps: int, seed: int = 0) -> NextItem:
    """Every step sees new baskets."""
    training.start(seed)
    network = NextItem()
    source = baskets(np.random.default_rng(seed))
    descent = training.Descent(network, rate=1e-2, steps=steps, warmup=min(100, steps // 4))
    with training.progress("basket", steps) as bar:
        for _ in range(steps):
            rows = torch.from_numpy(_padded(list(islice(source, _BATCH))))
            logits = network(rows[:, :-1].clamp(min=0))
            descent.step(
                nn.functional.cross_entropy(
                    logits.flatten(0, 1), rows[:, 1:].flatten(), ignore_index=_SKIPPED
                )
            )
            bar.step()
    return network.eval()


@torch.no_grad()
def figures(network: NextItem, *, count: int = 2000) -> Figures:
    """Tests on `count` baskets. As many further baskets give the frequencies of items."""
    rows = _padded(held_out(2 * count))
    counts = np.bincount(rows[count:, 1:].clip(0).ravel(), minlength=len(ITEMS))
    rows = rows[:count]
    following = rows[:, 1:]
    logits = network(torch.from_numpy(rows[:, :-1].clip(0))).numpy()
    frequent = np.tile(counts.astype(float), (*following.shape, 1))
    frequent[..., 0] = -1
    for time in range(following.shape[1]):
        inside = rows[:, : time + 1].clip(0)
        np.put_along_axis(frequent[:, time], inside, -1, axis=-1)
    return Figures(network=_among(logits, following), frequent=_among(frequent, following))


def export(network: NextItem, path: Path) -> Path:
    """Writes the step model."""
    return elman_export.export(
        network,
        path,
        input=elman_export.tokens(len(ITEMS), names=ITEMS),
        outputs=[elman_export.logits("next", labels=ITEMS)],
        description="The next item of a shopping basket",
    ).path


def _among(scores: np.ndarray, following: np.ndarray) -> Mapping[int, float]:
    real = following != _SKIPPED
    best = (-scores).argsort(axis=-1, kind="stable")[real]
    return {k: float((best[:, :k] == following[real][:, None]).any(axis=-1).mean()) for k in (1, 3)}


def _padded(given: list[list[int]]) -> np.ndarray:
    rows = np.full((len(given), LONGEST), _SKIPPED)
    for row, basket in zip(rows, given, strict=True):
        row[: len(basket)] = basket
    return rows
