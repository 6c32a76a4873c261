"""A request to open a session."""

from dataclasses import dataclass

from elman_server.engine.outboxes.delivery import Selection
from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.sessions.initial_state import InitialState
from elman_server.engine.sessions.snapshot import Cadence


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    number: int
    """The caller's number for the session."""
    outbox: Outbox
    selection: Selection
    elements: int = 0
    """Elements that the caller pushes together with the open."""
    initial_state: InitialState | None = None
    """A validated snapshot, or validated contexts if the model takes contexts; `None`: the model's
    initial state. Of an awaited session: for use if the lookup finds no state."""
    cadence: Cadence | None = None
    """How often the session's snapshot goes to the outbox, if at all."""
    parkable: bool = False
    """Whether the session may be parked while idle."""
    awaited: bool = False
    """Whether a lookup for the session's state still runs. `found` then supplies the result, and
    the caller learns of the session only after that."""
