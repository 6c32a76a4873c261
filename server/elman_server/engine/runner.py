"""The runner: the port through which the engine runs jobs on the model."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.batch import Batch, Outputs
from elman_server.engine.init import InitJob
from elman_server.engine.interrupt import Interrupt
from elman_server.engine.snapshot import CaptureJob, RestoreJob, Tensors


class Runner(Protocol):
    """Runs one job after another, from any thread, but never two at a time. A job with an interrupt
    arms the interrupt, and raises soon after the interrupt fires."""

    def has_room(self, slots: Sequence[int] | NDArray[np.intp]) -> bool:
        """Whether the arrays have room for the slots. Without room, the other methods make room,
        and take longer the more slots are in use."""

    def begin(self, beginning: InitJob, interrupt: Interrupt | None = None) -> None:
        """Makes sessions' first states from their contexts. Writes states and step contexts into
        the sessions' slots.

        May be called again for the same sessions after an exception.
        """

    def restore(self, restoring: RestoreJob) -> None:
        """Writes snapshots into the sessions' slots. The snapshots come from `read`, here or in
        another process with the same model.

        May be called again for the same sessions after an exception.
        """

    def read(self, reading: CaptureJob) -> Tensors:
        """Returns all tensors kept for the sessions, `[len(reading), *shape]` each. The row of a
        slot without a written state is undefined."""

    def run(self, batch: Batch, interrupt: Interrupt | None = None) -> Outputs:
        """Takes the rows' states from their slots, runs the step, and puts the new states back.

        Returns the outputs that the batch wants, `[rows, chunk, *shape]`. Values beyond a row's own
        elements are undefined. After an exception the states of the batch's rows are unchanged.
        """
