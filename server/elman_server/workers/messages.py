"""Messages between the supervisor and a worker.

Messages are pickled. This is safe: both processes run the same code, the worker is the supervisor's
child, and no third process has an end of their socket.
"""

from dataclasses import dataclass
from typing import TypeAlias

from elman_server.config import ServerConfig
from elman_server.durable.tickets.keptkey import OwnKey
from elman_server.telemetry.family import Family


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """First message to a worker."""

    number: int
    """Worker number: 1, 2, .... A replacement has the number of the worker it replaces."""
    config: ServerConfig
    """Settings with the shared port."""
    own: OwnKey | None = None
    """The generated ticket key, if no key was configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Request for `Samples` with a number."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Order to finish all pushed elements and end, or to end at once. Idempotent."""

    at_once: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Order to accept connections as soon as the models are loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescan:
    """Order to rescan the repository."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Report: the worker has loaded its models."""

    models: tuple[str, ...]
    """NAME/VERSION and the start of the fingerprint, for each model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """Report: the worker's served models have changed."""

    models: tuple[str, ...]
    """Models in the format of `Loaded.models`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Report: the worker accepts connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Report: the worker can't start. The last message except for `Samples`."""

    message: str
    """Reason, as a single line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """All metrics of the worker so far. Counters never decrease between reports."""

    families: tuple[Family, ...]
    answers: int | None = None
    """Number of the `Report` request, or None if unrequested."""


Message: TypeAlias = (
    Begin | Listen | Report | Rescan | Stop | Loaded | Changed | Serving | Failed | Samples
)
