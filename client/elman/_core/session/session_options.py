"""Options for opening a session."""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from elman._core.models import model_request
from elman._core.options import Options, check_window
from elman._wire.contexts import Contexts, pack_contexts
from elman._wire.model import Model
from elman._wire.outputs import Layout, OutputChoice, resolve
from elman.errors import InvalidRequest
from elman.v1 import inference_pb2 as pb

MAX_NAME_NBYTES = 256
_OPENING_NBYTES = 1024
"""Approximate largest size of an opening frame beside the ticket, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """Session options, checked against the session's model."""

    layout: Layout
    window: int | None = None
    """Limit of unanswered elements, if lower than the server's limit."""
    contexts: Contexts = ()
    ticket: bytes | None = None
    """Ticket to resume from."""
    ticket_every: int = 0
    """Number of elements between two tickets; 0 for no tickets."""
    name: str = ""
    """Name of a named session; otherwise empty."""
    restart: bool = False
    """Whether the named session begins anew."""

    def fork(self, ticket: bytes) -> "SessionOptions":
        """Options of another session, resumed from a ticket."""
        return replace(self, contexts=(), ticket=ticket, name="", restart=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamArguments:
    """Arguments of a caller for a session, as in `Client.stream`."""

    context: Mapping[str, Any] | None = None
    outputs: OutputChoice | Sequence[OutputChoice] | None = None
    window: int | None = None
    ticket: bytes | None = None
    name: str | None = None
    restart: bool = False

    def checked(self, options: Options) -> "StreamArguments":
        """Checks the parts independent of the model. Raises `InvalidRequest`."""
        return replace(
            self,
            name=check_name(self.name),
            ticket=check_ticket(self.ticket, options.max_message_bytes),
        )

    def lookup(self, model: str, version: str | int | None) -> pb.GetModelRequest:
        """Request for the session's model. A ticket or a name determines the version."""
        session = None if self.restart else self.name
        return model_request(model, version, ticket=self.ticket, session=session)

    def session_options(self, model: Model, options: Options) -> SessionOptions:
        """Checks the arguments against the model. Raises `InvalidRequest`."""
        if not isinstance(self.restart, bool):
            raise InvalidRequest(f"restart is {self.restart!r}; allowed is True or False")
        if self.restart and (self.name is None or self.ticket is not None):
            raise InvalidRequest("restart is for a session with a name, and without a ticket")
        contexts: Contexts = ()
        # An existing session needs no contexts, but only the server knows whether it exists.
        if self.context is None and self.name is not None and not self.restart:
            pass
        elif self.ticket is None:
            most = options.max_message_bytes
            contexts = pack_contexts(model, self.context, max_message_bytes=most)
        elif self.context is not None:
            raise InvalidRequest("context and ticket are both given; allowed is one of them")
        return SessionOptions(
            layout=resolve(model, self.outputs),
            window=check_window(self.window),
            contexts=contexts,
            ticket=self.ticket,
            ticket_every=options.session_ticket_every,
            name=self.name or "",
            restart=self.restart,
        )


def check_name(name: str | None) -> str | None:
    """Returns `name`, a session's name or None. Raises `InvalidRequest`."""
    if name is None:
        return None
    try:
        if isinstance(name, str) and 0 < len(name.encode()) <= MAX_NAME_NBYTES:
            return name
    except UnicodeEncodeError:
        pass
    shown = reprlib.repr(name)
    raise InvalidRequest(
        f"session is {shown}; allowed is a str of 1 to {MAX_NAME_NBYTES} bytes of UTF-8"
    )


def check_ticket(
    ticket: bytes | bytearray | memoryview | None, max_message_bytes: int
) -> bytes | None:
    """Returns `ticket` as bytes, or None. Raises `InvalidRequest`."""
    if isinstance(ticket, bytearray | memoryview):
        ticket = bytes(ticket)
    if ticket is not None and (not isinstance(ticket, bytes) or not ticket):
        raise InvalidRequest(
            f"ticket is {reprlib.repr(ticket)}; allowed are the bytes of `stream.ticket()`"
        )
    if ticket is not None and len(ticket) > max_message_bytes - _OPENING_NBYTES:
        raise InvalidRequest(
            f"ticket has {len(ticket)} bytes; max_message_bytes is {max_message_bytes}"
        )
    return ticket
