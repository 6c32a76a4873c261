"""What an RPC's named sessions have to send, and when it must wait.

A server whose claims have lapsed does not know whether another server has its named sessions by
now. What they have answered stays here until it does. Sessions without a name are not concerned:
these have an outbox of their own.
"""

from collections.abc import Callable, Iterator

from elman_server.durable.named.lease_keeper import LeaseKeeper
from elman_server.engine.engine import Engine
from elman_server.engine.outbox import Mail, Outbox
from elman_server.engine.session import Session
from elman_server.frontend.wire.frames import FramePacker


class Withheld:
    """Bytes that wait for the state store, of all RPCs together."""

    def __init__(self, *, max_nbytes: float) -> None:
        self._max_nbytes = max_nbytes
        self._of: dict[NamedAnswers, int] = {}
        self._nbytes = 0

    def count(self, answers: "NamedAnswers", nbytes: int) -> None:
        """So many are an RPC's by now."""
        self._nbytes += nbytes - self._of.pop(answers, 0)
        if nbytes:
            self._of[answers] = nbytes

    @property
    def full(self) -> bool:
        return self._nbytes >= self._max_nbytes


class NamedAnswers:
    """The outbox of one RPC's named sessions, behind the keeper's fence."""

    def __init__(
        self,
        *,
        engine: Engine,
        lease_keeper: LeaseKeeper,
        packer: FramePacker,
        limit: float,
        of_all: Withheld,
        notify: Callable[[], None],
        told: Callable[[Session], None],
    ) -> None:
        """`limit`: bytes that wait before the sessions do. `notify` is called when there may be
        something to send, `told` when the end of a session is sent."""
        self.outbox = Outbox(limit=limit, notify=notify)
        self.session_index = engine.session_index(self.outbox)
        self._engine = engine
        self._lease_keeper = lease_keeper
        self._packer = packer
        self._notify = notify
        self._told = told
        self._of_all = of_all
        self._frames: Iterator[bytes] = iter(())
        """The rest of the mail that was taken last."""
        self._refusals: Iterator[bytes] = iter(())
        """The rest of what need not wait."""
        self.mail_nbytes = 0
        """Of the mail that was taken last, roughly."""

    @property
    def withheld(self) -> bool:
        """Whether nothing of them may be sent now."""
        return self._lease_keeper.lapsed

    @property
    def full(self) -> bool:
        """Whether no more is to be read for them: what their outbox holds is too much or, while
        they wait for the state store, what all of them hold."""
        if not self.withheld:
            return self.outbox.full
        return self._count() > 0 and self._of_all.full

    def _count(self) -> int:
        waiting = self.outbox.pending * self._engine.element_nbytes
        nbytes = self.outbox.nbytes + waiting if self.withheld else 0
        self._of_all.count(self, nbytes)
        return nbytes

    def next(self) -> bytes | None:
        """The next frame, to be sent at once. None if there is none that may be sent; when there
        is, `notify` is called."""
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
        """Nobody is to be notified any more."""
        self._lease_keeper.unwatch(self._notify)
        self._of_all.count(self, 0)

    def _packed(self, mail: Mail) -> Iterator[bytes]:
        yield from self._packer.pack(mail, [])
        for session, _ in mail.ended:
            self._told(session)
