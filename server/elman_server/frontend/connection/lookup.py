"""Lookup of named sessions in the state store, from the claim to the initial state."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import structlog

from elman_server.durable.named.lease import NamedSession
from elman_server.durable.named.lease_keeper import LeaseKeeper
from elman_server.durable.store.interface import Claim
from elman_server.engine.sessions.ending import Ending, EndReason
from elman_server.engine.sessions.initial_state import InitialState
from elman_server.engine.sessions.session import Session
from elman_server.engine.sessions.snapshot import Snapshot
from elman_server.errors import (
    InvalidRequest,
    ServerError,
    SessionTaken,
    ShuttingDown,
    StoreDown,
    TicketRejected,
)
from elman_server.frontend.connection.naming import NamedOpen
from elman_server.frontend.connection.ticketing import Ticketing
from elman_server.serving.served import ServedModel
from elman_server.telemetry.table import SESSIONS_RESUMED, TICKETS_REJECTED


@contextmanager
def explained() -> Iterator[None]:
    """Rewords the rejection of a checkpoint: the client does not know of checkpoints."""
    try:
        yield
    except TicketRejected as error:
        text = f"what is kept of the session can't be used: {error}; a restart begins it anew"
        raise TicketRejected(text, reason=error.reason) from None


class Lookups:
    """Lookups of one caller's named sessions, for one event loop."""

    def __init__(
        self, model: ServedModel, ticketing: Ticketing, lease_keeper: LeaseKeeper | None
    ) -> None:
        """`lease_keeper` is None without a state store."""
        self._model = model
        self._ticketing = ticketing
        self._lease_keeper = lease_keeper
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, session: Session, wanted: NamedOpen) -> None:
        """Starts the lookup of an awaited session's initial state."""
        assert self._lease_keeper is not None
        task = asyncio.create_task(self._find(session, wanted, self._lease_keeper))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _find(self, session: Session, wanted: NamedOpen, lease_keeper: LeaseKeeper) -> None:
        claim: Claim | None = None
        try:
            await self._look_before(wanted, lease_keeper)
            claim = await lease_keeper.claim(
                wanted.key,
                wanted.owner,
                again=wanted.again,
                # Checked between tries. After cancelling a claim, its success would be unknown.
                wanted=lambda: session.ended is None,
            )
            given = self._given(wanted, claim)
            floor = self._floor(wanted, None if claim is None else claim.checkpoint)
            if session.ended is None:
                named = NamedSession(
                    key=wanted.key,
                    owner=wanted.owner,
                    session=session,
                    engine=self._model.engine,
                    seal=partial(
                        self._ticketing.issue_named, key=wanted.key, attachment=wanted.owner
                    ),
                    floor=floor,
                )
                lease = lease_keeper.hold(claim, named)
                claim = None
                self._model.engine.found(session, given, lease)
                if isinstance(given, Snapshot):
                    self._model.metrics.inc(SESSIONS_RESUMED)
                if wanted.restart:
                    lease.request_snapshot(force=True)
        except ServerError as error:
            if isinstance(error, TicketRejected) and wanted.again:
                self._model.metrics.inc(TICKETS_REJECTED, by=error.reason)
            self._model.engine.abort(session, _ending(error))
        except Exception:
            structlog.get_logger("elman.rpc").exception("bug while a named session was opened")
            self._model.engine.abort(session, _ending(StoreDown("internal error")))
        finally:
            if claim is not None:
                lease_keeper.release(claim)

    async def _look_before(self, wanted: NamedOpen, lease_keeper: LeaseKeeper) -> None:
        """Rejects an outdated ticket if the client has no elements to replay. Called before the
        claim, because the claim would end the session at its present owner. Raises
        `TicketRejected`."""
        if wanted.again is not None and wanted.again.replay == 0:
            with suppress(StoreDown):  # the claim reports this, if it matters
                self._floor(wanted, await lease_keeper.peek(wanted.key))

    def _floor(self, wanted: NamedOpen, checkpoint: bytes | None) -> int:
        """Returns the first position to save. Raises `TicketRejected`."""
        if wanted.again is None or checkpoint is None:
            return 0
        return wanted.again.floor(self._ticketing.kept(checkpoint))

    def _given(self, wanted: NamedOpen, claim: Claim | None) -> InitialState | None:
        """Returns a session's initial state. Raises `TicketRejected` or `InvalidRequest`."""
        if wanted.again or wanted.restart or claim is None or claim.checkpoint is None:
            if wanted.lacking is not None:
                raise wanted.lacking
            return wanted.given
        with explained():
            return self._ticketing.redeem(claim.checkpoint)


def _ending(error: ServerError) -> Ending:
    match error:
        case SessionTaken():
            reason = EndReason.TAKEN_OVER
        case TicketRejected():
            reason = EndReason.TICKET_REJECTED
        case InvalidRequest():
            reason = EndReason.INVALID_REQUEST
        case ShuttingDown():
            reason = EndReason.SHUTDOWN
        case _:
            reason = EndReason.UNAVAILABLE
    return Ending(reason=reason, message=str(error))
