"""Training of the network, and the share of captions right to the word."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import elman_export
from elman_export.recipes import training
from examples.captions.network import Captioner, captions
from examples.captions.scenes import LONGEST, SIZE, WORDS, Scene, held_out, scenes

_BATCH = 64
_POOL = 60_000
"""Largest number of different scenes in training."""
_SKIPPED = -100
"""Target without cross entropy: the positions after a caption's end."""


def train(*, steps: int, seed: int = 0) -> Captioner:
    """Learns each caption's words from the picture and the words before."""
    training.start(seed)
    network = Captioner()
    rng = np.random.default_rng(seed)
    seen = (scene for scene in scenes(rng) if not scene.held_out)
    pool = list(islice(seen, min(_POOL, steps * _BATCH)))
    words, pictures = _words(pool), _pictures(pool)
    descent = training.Descent(network, rate=5e-3, steps=steps, warmup=min(100, steps // 4))
    with training.progress("captions", steps) as bar:
        for _ in range(steps):
            rows = torch.from_numpy(rng.integers(len(pool), size=_BATCH))
            given, following = words[rows, :-1].clamp(min=0), words[rows, 1:]
            logits = network(given, pictures[rows])
            descent.step(
                nn.functional.cross_entropy(
                    logits.flatten(0, 1), following.flatten(), ignore_index=_SKIPPED
                )
            )
            bar.step()
    return network.eval()


def accuracy(network: Captioner, *, count: int = 1000) -> Mapping[str, float]:
    """Share of captions that are right to the last word."""
    return {
        name: _right(network, list(islice(held_out(new_captions=new), count)))
        for name, new in (("new pictures", False), ("new captions", True))
    }


def export(network: Captioner, path: Path) -> Path:
    """Writes the step model. The encoder becomes the initial-state network."""
    return elman_export.export(
        network,
        path,
        input=elman_export.tokens(len(WORDS), names=WORDS),
        outputs=[elman_export.logits("next", labels=WORDS)],
        contexts=[elman_export.context("picture", SIZE, SIZE)],
        description="A caption for a picture of one or two figures",
    ).path


def _right(network: Captioner, given: list[Scene]) -> float:
    expected = _words(given)[:, 1:]
    found = captions(network, _pictures(given), LONGEST)
    return float(((found == expected) | (expected == _SKIPPED)).all(dim=1).float().mean())


def _words(given: list[Scene]) -> Tensor:
    rows = np.full((len(given), 1 + LONGEST), _SKIPPED)
    for row, scene in zip(rows, given, strict=True):
        row[: len(scene.ids)] = scene.ids
    assert rows.max() < len(WORDS)
    return torch.from_numpy(rows)


def _pictures(given: list[Scene]) -> Tensor:
    return torch.from_numpy(np.stack([scene.picture for scene in given]))
