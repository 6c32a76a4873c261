"""A session: one logical stream, its queue of elements and how it ends."""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from elman_server.engine.batch import Selection, Share
from elman_server.engine.beginning import Contexts, Start
from elman_server.engine.outbox import Outbox
from elman_server.engine.state_pool import Slot


class EndReason(StrEnum):
    """Why a session ended. Each session ends with exactly one."""

    FINISHED = "finished"
    """Its client closed it, and everything that was pushed was answered."""
    INVALID_ELEMENT = "invalid_element"
    INVALID_REQUEST = "invalid_request"
    STEP_FAILED = "step_failed"
    SHUTDOWN = "shutdown"
    CANCELLED = "cancelled"
    """Its RPC was cancelled, timed out or broke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    reason: EndReason
    message: str = ""
    """For people; empty for FINISHED and CANCELLED."""


FINISHED = Ending(reason=EndReason.FINISHED)
CANCELLED = Ending(reason=EndReason.CANCELLED)


class Session:
    """One logical stream. Only the scheduler changes it.

    The invariants: `pending` is the number of elements in `queue`; the element at the head of the
    queue has position `position + in_flight`; a session is part of one step or beginning at most at
    any time, and of no step before it has begun.
    """

    __slots__ = (
        "closing",
        "contexts",
        "ended",
        "id",
        "in_flight",
        "number",
        "outbox",
        "pending",
        "position",
        "queue",
        "selection",
        "slot",
        "start",
        "waiting",
    )

    def __init__(
        self, *, id: str, number: int, outbox: Outbox, selection: Selection, slot: Slot
    ) -> None:
        self.id = id
        self.number = number
        self.outbox = outbox
        self.selection = selection
        self.slot = slot
        self.start = Start.INITIAL
        self.contexts: Contexts | None = None
        """What it begins from, while that is due."""
        self.queue: deque[Share] = deque()
        self.pending = 0
        self.in_flight = 0
        self.position = 0
        """How many elements were answered: the position of the next prediction."""
        self.waiting = False
        """Whether it stands in one of the scheduler's lines, is held with its outbox, or has not
        begun."""
        self.closing: Ending | None = None
        """How it will end once its queue is empty."""
        self.ended: Ending | None = None

    @property
    def unanswered(self) -> int:
        return self.pending + self.in_flight
