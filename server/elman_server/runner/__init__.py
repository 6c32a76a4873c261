"""What runs a step: the model, the sessions' state, and what is known of how it behaves."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.batch import Batch, Outputs
from elman_server.engine.init import InitJob
from elman_server.engine.interrupt import Interrupt
from elman_server.engine.snapshot import CaptureJob, RestoreJob, Tensors


class Runner(Protocol):
    """Runs one thing after another, from whichever thread; never two at a time. What is given an
    interrupt arms it, and raises as soon as it can when that is fired."""

    def has_room(self, slots: Sequence[int] | NDArray[np.intp]) -> bool:
        """Whether there is room for what these slots hold. Making room, which what follows does
        where there is none, takes the longer the more slots are in use."""

    def begin(self, beginning: InitJob, interrupt: Interrupt | None = None) -> None:
        """Makes sessions' first states from their contexts and puts them, with what the steps will
        need of the contexts, into the sessions' slots.

        May be asked again for the same sessions after an exception.
        """

    def restore(self, restoring: RestoreJob) -> None:
        """Puts what `read` gave into the sessions' slots, here or in another process that serves
        the same model.

        May be asked again for the same sessions after an exception.
        """

    def read(self, reading: CaptureJob) -> Tensors:
        """All that it keeps in the sessions' slots, `[len(reading), *shape]` each. What it tells of
        a slot that nothing was put into is undefined."""

    def run(self, batch: Batch, interrupt: Interrupt | None = None) -> Outputs:
        """Takes the rows' state from their slots, runs the step, puts the new state back.

        Returns the outputs that the batch wants, `[rows, chunk, *shape]`; what stands beyond a
        row's own elements is undefined. After an exception the state of the batch's rows is what it
        was.
        """
