"""Options for opening a session."""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elman._core.options import check_window
from elman._wire.contexts import Contexts, pack_contexts
from elman._wire.model import Model
from elman._wire.outputs import Layout, OutputChoice, resolve
from elman.errors import InvalidRequest

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


def session_options(
    model: Model,
    *,
    context: Mapping[str, Any] | None,
    outputs: OutputChoice | Sequence[OutputChoice] | None,
    window: int | None = None,
    ticket: bytes | None = None,
    ticket_every: int = 0,
    name: str | None = None,
    restart: bool = False,
    max_message_bytes: int,
) -> SessionOptions:
    """Checks a caller's options. Raises `InvalidRequest` for options invalid for the model."""
    if not isinstance(restart, bool):
        raise InvalidRequest(f"restart is {restart!r}; allowed is True or False")
    if restart and (name is None or ticket is not None):
        raise InvalidRequest("restart is for a session with a name, and without a ticket")
    contexts: Contexts = ()
    # An existing session needs no contexts, but only the server knows whether the session exists.
    if context is None and name is not None and not restart:
        pass
    elif ticket is None:
        contexts = pack_contexts(model, context, max_message_bytes=max_message_bytes)
    elif context is not None:
        raise InvalidRequest("context and ticket are both given; allowed is one of them")
    return SessionOptions(
        layout=resolve(model, outputs),
        window=check_window(window),
        contexts=contexts,
        ticket=ticket,
        ticket_every=ticket_every,
        name=name or "",
        restart=restart,
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
