"""The runner: the port through which the engine runs jobs on the model."""

from collections.abc import Sequence
from typing import Protocol

from elman_server.engine.arrays import Rows
from elman_server.engine.jobs.batch import StepRunner
from elman_server.engine.jobs.capture import CaptureRunner
from elman_server.engine.jobs.init import InitRunner
from elman_server.engine.jobs.restore import RestoreRunner


class Runner(StepRunner, InitRunner, RestoreRunner, CaptureRunner, Protocol):
    """Runs one job after another, from any thread, but never two at a time. A job with an interrupt
    arms the interrupt, and raises soon after the interrupt fires."""

    def has_room(self, slots: Sequence[int] | Rows) -> bool:
        """Whether the arrays have room for the slots. Without room, the other methods make room,
        and take longer the more slots are in use."""
