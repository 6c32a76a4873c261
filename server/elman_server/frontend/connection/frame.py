"""A frame of a Stream RPC, apart from the wire's encoding."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from elman_server.model.contexts import GivenContext
from elman_server.model.selection import OutputRequest

Payload = str | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """A client's request to open a session. Fields are those of the wire's `Open`."""

    number: int
    outputs: tuple[OutputRequest, ...] = ()
    contexts: tuple[GivenContext, ...] = ()
    ticket: bytes = b""
    ticket_every_elements: int = 0
    ticket_every_seconds: float = 0.0
    fingerprint: str = ""
    parkable: bool = False
    name: str = ""
    restart: bool = False
    replay: int | None = None
    invalid: str = ""
    """Error message for a field with a value that has no form here."""


# Not frozen: nearly every frame has a push, and a frozen dataclass costs more.


@dataclass(slots=True, kw_only=True)
class Push:
    numbers: Sequence[int]
    counts: Sequence[int]
    """Number of elements of each session; empty: as many for each."""
    elements: Payload | None
    """All elements, packed; None if the client sent no elements."""


@dataclass(slots=True, kw_only=True)
class Frame:
    """Requests of a client, in the order in which they are taken."""

    opens: Iterable[Open] = ()
    """Converted from the wire one by one, as they are taken."""
    push: Push | None = None
    tickets: Sequence[int] = ()
    closes: Sequence[int] = ()
    others: int = 0
    """Number of opens, tickets and closes."""

    @property
    def payload(self) -> Payload:
        """Elements of the push; empty without a push."""
        return b"" if self.push is None or self.push.elements is None else self.push.elements

    @property
    def entries(self) -> int:
        """Number of mentions of sessions."""
        return self.others if self.push is None else self.others + len(self.push.numbers)
