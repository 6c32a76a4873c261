"""Table of the server's metrics: one row for each, in the order of the exposition. Pure.

A new metric is a row here, a row in docs/operations.md, and the call that counts. The front counts
a model's figures with `ServedModel.metrics`; others get their `LabelledMetrics` from the
constructor. A gauge is watched where its scope begins, such as in `serving/served.py`.

The engine knows no metrics. A figure of sessions is a method of `Observer` (`engine/stats.py`): the
engine calls the method, `EngineObserver` (`observer.py`) counts, and `Recorder`
(tests/server/fakes.py) keeps the figure for tests. A figure of a step is a field of `StepStats`:
the job makes it (`engine/jobs/batch.py`), `Settled.stats` carries it to the engine, and the engine
calls `Observer.stepped`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from elman_server.engine.sessions.ending import EndReason
from elman_server.errors import Overloaded, ShuttingDown


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """What a metric is about: a version of a model, a gRPC method, or the whole server."""

    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Counter:
    name: str
    """Name without the suffix `_total`."""
    help: str
    scope: Scope
    by: str = ""
    """A label in addition to the scope's labels; its value is an argument of each count."""
    start: Sequence[str] = ()
    """Values of the label `by` which are exposed before the first count."""


@dataclass(frozen=True, slots=True, eq=False)
class Gauge:
    name: str
    help: str
    scope: Scope


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    name: str
    help: str
    scope: Scope
    buckets: tuple[float, ...]
    """Upper bounds, without infinity."""


Row: TypeAlias = Counter | Gauge | Histogram

MODEL = Scope(("model", "version"))
LOADING = Scope(("model", "version"))
"""A version from its first load on, whether or not any load succeeds."""
METHOD = Scope(("grpc_type", "grpc_service", "grpc_method"))
SERVER = Scope()
STORE = Scope()
"""The state store of a server that has one."""

_SECONDS = (
    *(50e-6, 100e-6, 200e-6, 500e-6),
    *(1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 100e-3, 200e-3, 500e-3),
    *(1.0, 2.0, 5.0, 10.0),
)
_SIZES = tuple(float(2**exponent) for exponent in range(13))
_REFUSALS = (Overloaded.reason, ShuttingDown.reason, "rate", "bytes")

SESSIONS_OPENED = Counter("elman_sessions_opened", "Sessions that were opened.", MODEL)
SESSIONS_RESUMED = Counter(
    "elman_sessions_resumed", "Sessions that were opened from a ticket.", MODEL
)
"""Counts sessions opened from a checkpoint, too. Dashboards know the help, so the help stays."""
SESSIONS_CLOSED = Counter(
    "elman_sessions_closed",
    "Sessions that ended, by why.",
    MODEL,
    "reason",
    tuple(map(str, EndReason)),
)
SESSIONS_REJECTED = Counter(
    "elman_sessions_rejected",
    "Sessions that were refused at open, by why.",
    MODEL,
    "reason",
    _REFUSALS,
)
TICKETS_ISSUED = Counter("elman_tickets_issued", "Tickets that were sent.", MODEL)
TICKET_BYTES = Counter("elman_ticket_bytes", "Bytes of tickets that were sent.", MODEL)
TICKETS_REJECTED = Counter(
    "elman_tickets_rejected", "Tickets that were refused, by why.", MODEL, "reason"
)
LOADS = Counter("elman_model_loads", "Times that a version was loaded and probed.", LOADING)
LOAD_FAILURES = Counter(
    "elman_model_load_failures", "Times that a version failed to load or its probe.", LOADING
)
UNLOADS = Counter("elman_model_unloads", "Times that a version was unloaded.", LOADING)
ELEMENTS = Counter("elman_elements", "Elements that were answered.", MODEL)
NONFINITE_PREDICTIONS = Counter(
    "elman_nonfinite_predictions", "Predictions that hold NaN or infinity.", MODEL
)
STEPS = Counter("elman_steps", "Runs of the step model.", MODEL)
STEP_DURATION = Histogram("elman_step_duration_seconds", "How long a step ran.", MODEL, _SECONDS)
STEP_BATCH_SIZE = Histogram(
    "elman_step_batch_size", "How many sessions shared a step.", MODEL, _SIZES
)
ELEMENT_LATENCY = Histogram(
    "elman_element_latency_seconds",
    "From an element's arrival to its prediction's hand-over to gRPC.",
    MODEL,
    _SECONDS,
)
QUEUE_DELAY = Histogram(
    "elman_queue_delay_seconds", "From an element's arrival to its step's start.", MODEL, _SECONDS
)
SESSIONS = Gauge("elman_sessions", "Sessions that are open.", MODEL)
PENDING_ELEMENTS = Gauge("elman_pending_elements", "Elements that wait for a step.", MODEL)
STATE_BYTES = Gauge("elman_state_bytes", "Bytes reserved for sessions' state.", MODEL)
STATE_SLOTS = Gauge("elman_state_slots", "Rows of state in use.", MODEL)
CALLS_GIVEN_UP = Counter(
    "elman_calls_given_up",
    "Calls that were ended because their clients did not read, by why.",
    SERVER,
    "reason",
)
RPCS_STARTED = Counter("grpc_server_started", "RPCs that were started.", METHOD)
RPCS_HANDLED = Counter(
    "grpc_server_handled", "RPCs that were completed, by status.", METHOD, "grpc_code"
)
CALLS_REFUSED = Counter(
    "elman_calls_refused",
    "Calls that were refused, or ended for what their peers did, by why.",
    SERVER,
    "reason",
)
MESSAGES_RECEIVED = Counter("grpc_server_msg_received", "Messages that were received.", METHOD)
MESSAGES_SENT = Counter("grpc_server_msg_sent", "Messages that were sent.", METHOD)
CHECKPOINTS = Counter("elman_checkpoints", "Checkpoints of named sessions that were saved.", STORE)
CHECKPOINT_BYTES = Counter("elman_checkpoint_bytes", "Bytes of checkpoints that were saved.", STORE)
STORE_FAILURES = Counter("elman_state_store_failures", "Calls that the state store failed.", STORE)
NAMED_SESSIONS = Gauge("elman_named_sessions", "Named sessions that are open.", STORE)
NAMED_SESSIONS_WAITING = Gauge(
    "elman_named_sessions_waiting",
    "Named sessions whose predictions wait for the state store.",
    STORE,
)
STORE_DOWN = Gauge(
    "elman_state_store_down", "Server processes that can't use the state store now.", STORE
)
CALLS = Gauge("elman_calls", "Calls that are under way.", SERVER)

ROWS: tuple[Row, ...] = tuple(row for row in list(globals().values()) if isinstance(row, Row))
"""All rows, in the order above."""
