"""Phases of a session: what the session waits for, or which job its slot is in.

```
              ┌─▶ AWAITED ─┐ found                    push                 step
 open ────────┤            ├─▶ IDLE ◀───────┬─────────────▶ QUEUED ─────────────▶ STEPPING
              ├────────────┘    │           │                 │  ▲                   │
              │  ┌──────────────┼───────────┤     outbox full │  │ outbox emptied    │
              ▼  ▼ found        │           │                 ▼  │                   │
           INIT_DUE             │           │                 HELD                   │
              │                 │           │                                        │
              ▼                 ▼           │                                        │
         INITIALIZING ─▶ IDLE  CAPTURE_DUE ─┼▶ CAPTURING ─▶ IDLE       IDLE ◀────────┘
```

A job ends in IDLE, and the session goes on from there at once: to CAPTURE_DUE if a snapshot is due,
otherwise to QUEUED if elements wait. A cut drops the elements of a QUEUED or HELD session, which
then goes to CAPTURE_DUE, or ends. In IDLE no elements wait and no snapshot is due.

The stage of a session is independent of the phase: a session in any phase may be closed, cut or
ended by its caller. The slot of an ended session stays in its phase while a job writes to the slot,
and is VACANT otherwise.
"""

from enum import IntEnum


class Phase(IntEnum):
    VACANT = 0
    """No session has the slot."""
    AWAITED = 1
    """The lookup of the first state still runs."""
    INIT_DUE = 2
    """Waits for its first state to be made from contexts or a snapshot."""
    INITIALIZING = 3
    """In a running job that makes the first state."""
    IDLE = 4
    QUEUED = 5
    """Waits in the ready queue for a step."""
    HELD = 6
    """Has elements, and waits until its outbox is emptied."""
    STEPPING = 7
    """In a step, running or made ahead."""
    CAPTURE_DUE = 8
    """Waits for its snapshot. If the outbox is full, until the outbox is emptied."""
    CAPTURING = 9
    """In a running job that takes its snapshot."""


NO_STATE = frozenset({Phase.AWAITED, Phase.INIT_DUE, Phase.INITIALIZING})
"""Phases of a session whose slot has no state yet."""
IN_JOB = frozenset({Phase.INITIALIZING, Phase.STEPPING, Phase.CAPTURING})
"""Phases in which a job has the slot."""


class Stage(IntEnum):
    """How far a session is on the way to its end. Stages only rise."""

    OPEN = 0
    CLOSING = 1
    """Takes no more elements, and ends when its queue is answered."""
    CUT = 2
    """Closing, and its last snapshot is taken even if the outbox is full, so that the session ends
    although its caller does not read."""
    ENDED = 3


# For arrays: NumPy takes microseconds to turn a member of an enum into a number, a step has few.
IDLE, QUEUED, STEPPING = int(Phase.IDLE), int(Phase.QUEUED), int(Phase.STEPPING)
OPEN, ENDED = int(Stage.OPEN), int(Stage.ENDED)
