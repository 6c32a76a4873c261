"""Norm of the gradient d loss(t) / d state(t - lag), by lag."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from examples.horizon.networks import Recaller
from examples.horizon.task import Task
from examples.horizon.training import Plan

_PROMPTS = 256
_SEED = 3_000_000


def endings(task: Task, lag: int, before: int) -> tuple[Tensor, Tensor]:
    """Streams `[prompts, before + 1]` that end with a prompt of the lag, and the right answers."""
    rng = np.random.default_rng(_SEED)
    streams = task.streams(_PROMPTS, before + 4 * max(task.lags) + 200, rng)
    rows, places = np.nonzero(streams.lags == lag)
    late = places >= before
    rows, places = rows[late][:_PROMPTS], places[late][:_PROMPTS]
    windows = [
        streams.elements[row, place - before : place + 1]
        for row, place in zip(rows, places, strict=True)
    ]
    answers = streams.answers[rows, places]
    return torch.from_numpy(np.stack(windows)), torch.from_numpy(answers)


def norms(
    plan: Plan, network: Recaller, lag: int, *, longest: int, warm_up: int
) -> Sequence[float]:
    """The norm of the gradient of the loss at a prompt of `lag` with respect to the whole state
    (an LSTM's h and c together) 0 to `longest` elements earlier, a mean over prompts."""
    x, answers = endings(plan.task, lag, warm_up + longest)
    with torch.no_grad():
        embedded = network.embedding(x)
        _, last = network.body(embedded[:, :warm_up])
        states = [_parts(last)]
    for position in range(warm_up, x.shape[1]):
        given = states[-1] if len(states[-1]) > 1 else states[-1][0]
        _, after = network.body(embedded[:, position : position + 1], given)
        states.append(_parts(after))
        for part in states[-1]:
            part.retain_grad()
    # The answer is read from h alone; an LSTM's c acts on it from the next element on.
    answer = network.head(states[-1][0][0])
    loss = nn.functional.cross_entropy(answer, answers, reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]
    network.zero_grad()
    return [_norm(state) for state in reversed(states[1:])]


def _parts(state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def _norm(state: tuple[Tensor, ...]) -> float:
    parts = [torch.zeros_like(part) if part.grad is None else part.grad for part in state]
    return float(torch.cat(parts, dim=-1)[0].norm(dim=-1).mean())
