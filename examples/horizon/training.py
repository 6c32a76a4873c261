"""Training of a network on the task, and its accuracy."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from elman_export.recipes import training
from examples.horizon.networks import Init, Recaller
from examples.horizon.task import Task

_ELSEWHERE = 0.1
"""Weight of the answer *nothing*, which is frequent and easy."""
_HELD_OUT_SEED = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Settings shared by all compared networks."""

    lags: tuple[int, ...] = (5, 10, 20, 50)
    hidden: int = 64
    steps: int = 2000
    batch: int = 64
    time: int = 200
    """Elements of a training stream. Gradients go back through all elements."""
    warmup: int = 100

    def alone(self, lag: int) -> "Plan":
        """Plan for a single lag, with half of the steps."""
        return replace(self, lags=(lag,), steps=self.steps // 2)

    @property
    def task(self) -> Task:
        return Task(lags=self.lags)


QUICK = Plan(lags=(2, 4), hidden=16, steps=30, batch=16, time=40, warmup=10)
"""Plan for a test: some seconds, with networks that have learned little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Settings that may differ between networks."""

    kind: str
    init: Init
    rate: float = 3e-3
    """Highest learning rate."""
    seed: int = 0

    @property
    def label(self) -> str:
        return f"{self.kind}, {self.init}"


def untrained(plan: Plan, choice: Choice) -> Recaller:
    training.start(choice.seed)
    return Recaller(plan.task, choice.kind, choice.init, plan.hidden)


def train(plan: Plan, choice: Choice) -> Recaller:
    """Every step has new streams, equal for every choice with an equal seed."""
    network = untrained(plan, choice)
    rng = np.random.default_rng(choice.seed)
    descent = training.Descent(network, rate=choice.rate, steps=plan.steps, warmup=plan.warmup)
    for _ in range(plan.steps):
        streams = plan.task.streams(plan.batch, plan.time, rng)
        answers = network(torch.from_numpy(streams.elements)).flatten(0, 1)
        targets = torch.from_numpy(streams.answers).flatten()
        asked = torch.from_numpy(streams.lags).flatten() > 0
        losses = nn.functional.cross_entropy(answers, targets, reduction="none")
        descent.step(losses[asked].mean() + _ELSEWHERE * losses[~asked].mean())
    return network


@torch.no_grad()
def accuracy(plan: Plan, network: nn.Module, *, seed: int = 0) -> Mapping[int, float]:
    """Share of right answers on new streams, by lag; under 0, the share for *nothing*.

    Different seeds are different streams.
    """
    rng = np.random.default_rng(_HELD_OUT_SEED + seed)
    streams = plan.task.streams(256, 2 * plan.time, rng)
    answers = network(torch.from_numpy(streams.elements)).argmax(-1).numpy()
    right = answers == streams.answers
    return {lag: float(right[streams.lags == lag].mean()) for lag in (*plan.lags, 0)}
