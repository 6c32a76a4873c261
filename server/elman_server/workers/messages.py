"""What the supervisor and a worker tell each other.

Both run the same code, one is the other's child, and nobody else has an end of the socket between
them; so messages are pickled.
"""

from dataclasses import dataclass
from typing import TypeAlias

from elman_server.config import ServerConfig
from elman_server.durable.tickets.keptkey import OwnKey
from elman_server.workers.families import Family


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """The first that a worker hears."""

    number: int
    """1, 2, ...: its place; who replaces it has the same."""
    config: ServerConfig
    """With the port that all share."""
    own: OwnKey | None = None
    """The ticket key, if none was configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Asks for `Samples` with this number."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Finish what was pushed and end; or end at once. Saying it twice changes nothing."""

    at_once: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Take connections, as soon as the models are loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """See what came into the repository, and what went."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The worker has loaded its models."""

    models: tuple[str, ...]
    """NAME/VERSION and the start of the fingerprint of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """The worker serves other models than before."""

    models: tuple[str, ...]
    """As in `Loaded`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The worker takes connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The worker can't start. Nothing comes after it."""

    message: str
    """One line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """All that the worker counted so far; a later one is never less."""

    families: tuple[Family, ...]
    answers: int | None = None
    """The report that was asked for, or None if none was."""


Message: TypeAlias = (
    Begin | Listen | Report | Look | Stop | Loaded | Changed | Serving | Failed | Samples
)
