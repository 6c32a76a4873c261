"""Admission: whether the server takes another session, and whether it reads more elements."""

from collections.abc import Callable

from elman_server.errors import Overloaded, ShuttingDown


class Admission:
    """Counts what all models share. Not for use from several threads."""

    def __init__(
        self,
        *,
        max_sessions: int,
        max_pending_elements: int,
        max_context_bytes: int,
        retry_after: float,
    ) -> None:
        self._max_sessions = max_sessions
        self._max_pending_elements = max_pending_elements
        self._max_context_bytes = max_context_bytes
        self._retry_after = retry_after
        self._backlogs: list[Callable[[], int]] = []
        self._context_nbytes: list[Callable[[], int]] = []
        self._waiting: set[Callable[[], None]] = set()
        self.sessions = 0
        self.closed = False
        """Whether the server is stopping."""

    def admit(self, elements: int = 0, context_nbytes: int = 0) -> None:
        """Counts one more session; `release` gives its place back.

        `elements`: how many it brings along at once, which is refused while too many wait already.
        `context_nbytes`: bytes of what it begins from, which are refused where they are too many
        with those of the others that have yet to begin. Raises `Overloaded` or `ShuttingDown`.
        """
        if self.closed:
            raise ShuttingDown("the server is stopping")
        if self.sessions >= self._max_sessions:
            raise Overloaded(
                f"{self.sessions} sessions are open; max_sessions is {self._max_sessions}",
                retry_after=self._retry_after,
            )
        if elements and self.crowded:
            raise Overloaded(
                f"too many elements wait already; max_pending_elements is "
                f"{self._max_pending_elements}",
                retry_after=self._retry_after,
            )
        waiting = self._waiting_context_nbytes
        if context_nbytes and waiting and waiting + context_nbytes > self._max_context_bytes:
            raise Overloaded(
                f"{waiting} bytes of contexts wait for their sessions to begin; "
                f"max_context_bytes is {self._max_context_bytes}",
                retry_after=self._retry_after,
            )
        self.sessions += 1

    def release(self) -> None:
        self.sessions -= 1
        self.relieve()

    def watch(
        self, backlog: Callable[[], int], context_nbytes: Callable[[], int]
    ) -> Callable[[], None]:
        """Adds one model's number of waiting elements to what `crowded` looks at, and the bytes of
        its waiting contexts to what `crowded_by_contexts` does. What it returns takes that back."""
        self._backlogs.append(backlog)
        self._context_nbytes.append(context_nbytes)

        def unwatch() -> None:
            self._backlogs.remove(backlog)
            self._context_nbytes.remove(context_nbytes)

        return unwatch

    def wait(self, notify: Callable[[], None]) -> None:
        """Has `notify` called, once, when it is not crowded any more."""
        self._waiting.add(notify)

    def forget(self, notify: Callable[[], None]) -> None:
        """Takes a `wait` back."""
        self._waiting.discard(notify)

    def relieve(self) -> None:
        """Looks whether those who wait can go on. To be called when fewer elements wait."""
        if self._waiting and not self.crowded and not self.crowded_by_contexts:
            waiting, self._waiting = self._waiting, set()
            for notify in waiting:
                notify()

    @property
    def crowded_by_contexts(self) -> bool:
        """Whether more bytes of contexts wait than the server wants to hold."""
        return self._waiting_context_nbytes > self._max_context_bytes // 2

    @property
    def _waiting_context_nbytes(self) -> int:
        return sum(nbytes() for nbytes in self._context_nbytes)

    @property
    def crowded(self) -> bool:
        """Whether more elements wait, of all models, than the server wants to hold."""
        waiting = 0
        for backlog in self._backlogs:
            waiting += backlog()
        return waiting >= self._max_pending_elements
