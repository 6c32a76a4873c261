"""Shared parts of the recipes' training: determinism, schedule, best weights, progress.

Each recipe has its own data and losses, and cuts sequences into batches in its own way.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn


def start(seed: int) -> None:
    """Makes training repeatable: seeds torch, uses one thread and only deterministic operators."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


class Descent:
    """AdamW with a linear warm-up, a cosine decay to a hundredth, and clipped gradients."""

    def __init__(
        self, module: nn.Module, *, rate: float, steps: int, warmup: int = 200, clip: float = 1.0
    ) -> None:
        """`rate` is the highest learning rate; `steps` is the total number of steps."""
        self._parameters = list(module.parameters())
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.01
        )
        self._clip = clip

        def factor(step: int) -> float:
            cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
            return min(1.0, (step + 1) / warmup) * (0.01 + 0.99 * cosine)

        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, factor)

    def step(self, loss: Tensor) -> None:
        """Moves the parameters down `loss`, a scalar."""
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, self._clip)
        self._optimizer.step()
        self._schedule.step()


class Best:
    """A module's best weights so far."""

    def __init__(self) -> None:
        self.score = math.inf
        """The lowest so far."""
        self._weights: Mapping[str, Tensor] = {}

    def offer(self, module: nn.Module, score: float) -> None:
        """Keeps a copy of the module's weights if `score` is the lowest so far."""
        if score < self.score:
            self.score = score
            self._weights = {name: value.clone() for name, value in module.state_dict().items()}

    def restore(self, module: nn.Module) -> None:
        """Loads the kept weights into the module."""
        module.load_state_dict(dict(self._weights))


class Bar:
    """A progress bar on standard error. Without a terminal, prints only the notes, line by line."""

    def __init__(self, title: str, steps: int) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._title = title
        self._console = Console(stderr=True)
        self.progress = Progress(*columns, console=self._console)
        self._task = self.progress.add_task(title, total=steps, note="")

    def step(self) -> None:
        """Advances the bar by one step."""
        self.progress.advance(self._task)

    def note(self, text: str) -> None:
        """Shows a text on progress, such as the last validation figure."""
        self.progress.update(self._task, note=text)
        if not self._console.is_terminal:
            self._console.print(f"{self._title}: {text}")


@contextmanager
def progress(title: str, steps: int) -> Iterator[Bar]:
    """Shows a bar while the block runs."""
    bar = Bar(title, steps)
    with bar.progress:
        yield bar
