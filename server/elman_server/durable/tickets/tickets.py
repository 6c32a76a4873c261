"""Tickets of one model: conversion of snapshots to sealed bytes, and back."""

import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman_server.durable.tickets.content import Attachment, Content, Origin, overhead_nbytes
from elman_server.durable.tickets.keyring import SEAL_NBYTES, Keyring
from elman_server.engine.sessions.snapshot import Cadence, Snapshot
from elman_server.errors import ForeignTicket, TicketRejected
from elman_server.model.spec import ModelSpec


class Tickets:
    """Issues and redeems the tickets of one model.

    An identity is the caller's authenticated identity, or empty without authentication.
    """

    def __init__(
        self,
        origin: Origin,
        spec: ModelSpec,
        *,
        keyring: Keyring,
        lifetime: float,
        named_lifetime: float = 0.0,
        least: Cadence,
        max_nbytes: float = inf,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`lifetime`: seconds for which a ticket is valid. `named_lifetime`: the same for named
        sessions, if longer. `least`: the smallest interval between a session's tickets.
        `max_nbytes`: the largest size of a ticket. `clock` returns seconds since 1970."""
        self.least = least
        self._origin = origin
        self._keyring = keyring
        self._lifetime = lifetime
        self._named_lifetime = max(lifetime, named_lifetime)
        self._clock = clock
        states = [(state.dtype, state.shape) for state in spec.states]
        contexts = [(context.dtype, context.shape) for context in spec.step_contexts]
        self._layout = [
            (np.dtype(dtype).newbyteorder("<"), shape) for dtype, shape in (*states, *contexts)
        ]
        tensors = sum(prod(shape) * dtype.itemsize for dtype, shape in self._layout)
        self.nbytes = SEAL_NBYTES + overhead_nbytes(origin) + tensors
        """The largest size of a ticket, in bytes."""
        self.available = self.nbytes <= max_nbytes
        """Whether tickets are issued; false if the state is too large for a ticket."""

    def issue(
        self,
        snapshot: Snapshot,
        identity: str,
        attachment: Attachment | None = None,
    ) -> bytes:
        """Seals a snapshot as a ticket. `attachment`: only for a named session."""
        tensors = None
        if snapshot.tensors is not None:
            tensors = b"".join(
                [
                    array.astype(dtype, copy=False).tobytes()
                    for array, (dtype, _) in zip(snapshot.tensors, self._layout, strict=True)
                ]
            )
        content = Content(
            origin=self._origin,
            position=snapshot.position,
            expires=self._clock() + (self._named_lifetime if attachment else self._lifetime),
            owner=_owner(identity),
            tensors=tensors,
            attachment=attachment,
        )
        return self._keyring.seal(content.encode())

    def redeem(self, ticket: bytes, identity: str) -> Snapshot:
        """Returns the snapshot of a ticket. Raises `TicketRejected`, or `ForeignTicket` for a
        ticket of a different identity."""
        return self._snapshot(self._opened(ticket, identity))

    def redeem_named(
        self, ticket: bytes, identity: str, session: bytes
    ) -> tuple[Snapshot, Attachment]:
        """Returns the snapshot and the attachment of a ticket for the named session `session`.
        Raises as `redeem` does, and `TicketRejected` for a different session."""
        content = self._opened(ticket, identity)
        attachment = content.attachment
        if attachment is None or attachment.session != session:
            raise TicketRejected(
                "the ticket is of no session with a name; without a name it opens a session"
                if attachment is None
                else "the ticket is of a session with another name",
                reason="session",
            )
        return self._snapshot(content), attachment

    def content(self, ticket: bytes, identity: str) -> Content:
        """Returns the content of a ticket for any version of the model. Raises as `redeem` does."""
        return self._opened(ticket, identity)

    def check_fingerprint(self, fingerprint: str) -> None:
        """Raises `TicketRejected` unless `fingerprint` is the model's."""
        own = self._origin.fingerprint
        if fingerprint != own:
            raise TicketRejected(
                f"the session began on another network: its model has fingerprint "
                f"{fingerprint[:12]!r}, version {self._origin.version} of {self._origin.model!r} "
                f"here {own[:12]!r}",
                reason="fingerprint",
            )

    def origin(self, ticket: bytes, identity: str) -> Origin:
        """Returns the origin of a ticket for any version of the model. Raises as `redeem` does."""
        return self.content(ticket, identity).origin

    def _snapshot(self, content: Content) -> Snapshot:
        self.check_fingerprint(content.origin.fingerprint)
        if content.tensors is None:
            return Snapshot(position=content.position, tensors=None)
        return Snapshot(position=content.position, tensors=self._tensors(content.tensors))

    def _opened(self, ticket: bytes, identity: str) -> Content:
        content = Content.decode(self._keyring.open(ticket))
        # Check the owner first, so that errors reveal no details to other identities.
        if content.owner != _owner(identity):
            raise ForeignTicket("the ticket was issued to another identity", reason="identity")
        if content.origin.model != self._origin.model:
            raise TicketRejected(
                f"the ticket is of model {content.origin.model!r}; this is {self._origin.model!r}",
                reason="model",
            )
        if content.expires <= self._clock():
            when = datetime.fromtimestamp(content.expires, UTC).isoformat(timespec="seconds")
            raise TicketRejected(f"the ticket expired at {when}", reason="expired")
        return content

    def _tensors(self, data: bytes) -> tuple[NDArray[Any], ...]:
        arrays, start = [], 0
        for dtype, shape in self._layout:
            count = prod(shape)
            array = np.frombuffer(data, dtype, count, start).reshape(shape)
            arrays.append(array.astype(dtype.newbyteorder("="), copy=False))
            start += array.nbytes
        return tuple(arrays)


def _owner(identity: str) -> bytes:
    return hashlib.sha256(identity.encode()).digest()
