"""Answers of an RPC's named sessions, withheld while the server's claims have lapsed.

A server with lapsed claims does not know whether another server already owns the named sessions.
Until the claims are renewed, the answers of named sessions wait here. Sessions without a name have
a separate outbox and are not affected.
"""

from collections.abc import Callable, Iterator

from elman_server.durable.named.lease_keeper import LeaseKeeper
from elman_server.engine.engine import Engine
from elman_server.engine.mail import Mail
from elman_server.engine.outbox import Outbox
from elman_server.frontend.wire.frames import FramePacker


class Withheld:
    """Bytes that wait for the state store, summed over all RPCs."""

    def __init__(self, *, max_nbytes: float) -> None:
        self._max_nbytes = max_nbytes
        self._of: dict[NamedAnswers, int] = {}
        self._nbytes = 0

    def count(self, answers: "NamedAnswers", nbytes: int) -> None:
        """Sets the number of waiting bytes of an RPC."""
        self._nbytes += nbytes - self._of.pop(answers, 0)
        if nbytes:
            self._of[answers] = nbytes

    @property
    def full(self) -> bool:
        return self._nbytes >= self._max_nbytes


class NamedAnswers:
    """The outbox of an RPC's named sessions, behind the keeper's fence."""

    def __init__(
        self,
        *,
        engine: Engine,
        lease_keeper: LeaseKeeper,
        packer: FramePacker,
        limit: float,
        of_all: Withheld,
        notify: Callable[[], None],
        told: Callable[[int], None],
    ) -> None:
        """`limit` is the outbox size, in bytes, at which sessions begin to wait. `notify` is called
        when a frame may be ready, `told` with the
        number of a session whose end is sent."""
        self.outbox = Outbox(limit=limit, notify=notify)
        self.session_index = engine.session_index(self.outbox)
        self._engine = engine
        self._lease_keeper = lease_keeper
        self._packer = packer
        self._notify = notify
        self._told = told
        self._of_all = of_all
        self._frames: Iterator[bytes] = iter(())
        """Remaining frames of the mail taken last."""
        self._refusals: Iterator[bytes] = iter(())
        """Remaining frames of refused opens. Refusals need not wait."""
        self.mail_nbytes = 0
        """Approximate size of the mail taken last."""

    @property
    def withheld(self) -> bool:
        """Whether the answers must not be sent now."""
        return self._lease_keeper.lapsed

    @property
    def full(self) -> bool:
        """Whether the RPC must stop reading because of named sessions. Normally the RPC's own
        outbox decides. While answers are withheld, the total over all RPCs decides; an RPC without
        waiting bytes never stops."""
        if not self.withheld:
            return self.outbox.full
        return self._count() > 0 and self._of_all.full

    def _count(self) -> int:
        waiting = self.outbox.pending * self._engine.element_nbytes
        nbytes = self.outbox.nbytes + waiting if self.withheld else 0
        self._of_all.count(self, nbytes)
        return nbytes

    def next(self) -> bytes | None:
        """Returns the next frame, to be sent at once; None if no frame may be sent now. Then
        `notify` is called when a frame may be sent."""
        self._count()
        frame = next(self._refusals, None)
        if frame is None and self.withheld:
            self._lease_keeper.watch(self._notify)
            self._refusals = self._packed(self.outbox.take_refusals())
            return next(self._refusals, None)
        if frame is None:
            frame = next(self._frames, None)
        if frame is None:
            self.mail_nbytes = self.outbox.nbytes
            self._frames = self._packed(self._engine.collect(self.outbox))
            frame = next(self._frames, None)
        return frame

    def abandon(self) -> None:
        """Stops notifications, and stops counting the RPC's waiting bytes."""
        self._lease_keeper.unwatch(self._notify)
        self._of_all.count(self, 0)

    def _packed(self, mail: Mail) -> Iterator[bytes]:
        yield from self._packer.pack(mail, [])
        for ended in mail.ended:
            self._told(ended.number)
