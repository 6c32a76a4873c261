"""Independent trainings, a few at a time in separate processes."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch
from numpy.typing import NDArray

from examples.horizon.networks import Recaller
from examples.horizon.training import Choice, Plan, accuracy, train, untrained


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    plan: Plan
    choice: Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    job: Job
    right: Mapping[int, float]
    """See `accuracy`."""
    weights: Mapping[str, NDArray[Any]]

    def network(self) -> Recaller:
        network = untrained(self.job.plan, self.job.choice)
        network.load_state_dict({k: torch.from_numpy(v) for k, v in self.weights.items()})
        return network


def work(jobs: Sequence[Job], processes: int) -> Iterator[Trained]:
    """Network of each job, in the order of completion."""
    if processes == 1:
        yield from map(do, jobs)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(do, job) for job in jobs]):
            yield future.result()


def do(job: Job) -> Trained:
    network = train(job.plan, job.choice)
    # As arrays: tensors would be shared with a process that is gone.
    weights = {name: value.numpy().copy() for name, value in network.state_dict().items()}
    return Trained(job=job, right=accuracy(job.plan, network), weights=weights)
