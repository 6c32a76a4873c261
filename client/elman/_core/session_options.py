"""What a session is opened with."""

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
"""What a frame that opens a session takes beside its ticket, at most and roughly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """Checked against the session's model."""

    layout: Layout
    window: int | None = None
    """How many elements may be unanswered, if fewer than the server allows."""
    contexts: Contexts = ()
    ticket: bytes | None = None
    """What it goes on from."""
    ticket_every: int = 0
    """After how many elements a ticket is to come; 0 for never."""
    name: str = ""
    """Of a named session; empty if it has none."""
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
    """What a caller asks for. Raises `InvalidRequest` for what does not fit the model."""
    if not isinstance(restart, bool):
        raise InvalidRequest(f"restart is {restart!r}; allowed is True or False")
    if restart and (name is None or ticket is not None):
        raise InvalidRequest("restart is for a session with a name, and without a ticket")
    contexts: Contexts = ()
    # A session that there is already needs none; whether there is, the server knows.
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
    """`name`, if it is one of a session or None. Raises `InvalidRequest`."""
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
    """`ticket`, if it is one or None. Raises `InvalidRequest`."""
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
