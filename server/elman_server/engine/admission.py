"""Admission: decides whether the server accepts a session, and whether the server reads
elements."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

from elman_server.errors import Overloaded, ShuttingDown


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Functions that report how much waits for a model; callable at any time."""

    elements: Callable[[], int]
    """Elements waiting for a step, without the elements held for a caller that does not read."""
    element_nbytes: int = 0
    """Bytes of an element."""
    context_nbytes: Callable[[], int] = int
    """Bytes of contexts and snapshots of sessions without a ready state."""


class Admission:
    """Counts sessions and bytes over all models. Not thread-safe."""

    def __init__(
        self,
        *,
        max_sessions: int,
        max_pending_elements: int,
        max_context_bytes: int,
        retry_after: float,
        max_state_bytes: float = inf,
        max_pending_bytes: float = inf,
    ) -> None:
        self._max_sessions = max_sessions
        self._max_pending_elements = max_pending_elements
        self._max_context_bytes = max_context_bytes
        self._retry_after = retry_after
        self._max_state_bytes = max_state_bytes
        self._max_pending_bytes = max_pending_bytes
        self._models: list[Waiting] = []
        self._frame_nbytes = 0
        self._waiting: set[Callable[[], None]] = set()
        self.sessions = 0
        self.state_nbytes = 0
        """Bytes of state of all sessions."""
        self.closed = False
        """Whether the server is stopping."""

    def admit(self, elements: int = 0, context_nbytes: int = 0, state_nbytes: int = 0) -> None:
        """Counts one more session, until `release`.

        `elements`: how many elements the caller pushes together with the open; refused while too
        many elements wait. `context_nbytes`: bytes of the session's contexts or snapshot; refused
        if, together with the bytes already waiting, they exceed `max_context_bytes`.
        `state_nbytes`: bytes of the session's state.

        Raises `Overloaded` or `ShuttingDown`.
        """
        if self.closed:
            raise ShuttingDown("the server is stopping")
        if self.sessions >= self._max_sessions:
            raise Overloaded(
                f"{self.sessions} sessions are open; max_sessions is {self._max_sessions}",
                retry_after=self._retry_after,
            )
        if self.state_nbytes + state_nbytes > self._max_state_bytes:
            raise Overloaded(
                f"the state of {self.sessions} sessions takes {self.state_nbytes} bytes, and that "
                f"of one more {state_nbytes}; max_state_bytes is {self._max_state_bytes:.0f}",
                retry_after=self._retry_after,
            )
        if elements and self.crowded:
            raise Overloaded(
                f"too many elements wait already; max_pending_elements is "
                f"{self._max_pending_elements}, max_pending_bytes {self._max_pending_bytes:.0f}",
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
        self.state_nbytes += state_nbytes

    def release(self, state_nbytes: int = 0) -> None:
        self.sessions -= 1
        self.state_nbytes -= state_nbytes
        self.relieve()

    def watch(self, waiting: Waiting) -> Callable[[], None]:
        """Includes a model in `crowded` and `crowded_by_contexts`. Returns a function to remove the
        model."""
        self._models.append(waiting)
        return lambda: self._models.remove(waiting)

    @contextmanager
    def hold_frame(self, frame_nbytes: int) -> Iterator[None]:
        """Counts a frame held in memory. Raises `Overloaded` if the held frames take too many
        bytes; a single frame may have any size."""
        if self._frame_nbytes and self._frame_nbytes + frame_nbytes > self._max_pending_bytes:
            raise Overloaded(
                f"frames of {self._frame_nbytes} bytes wait already to be taken; max_pending_bytes "
                f"is {self._max_pending_bytes:.0f}",
                retry_after=self._retry_after,
            )
        self._frame_nbytes += frame_nbytes
        try:
            yield
        finally:
            self._frame_nbytes -= frame_nbytes

    def wait(self, notify: Callable[[], None]) -> None:
        """Has `notify` called once, when the server is not crowded any more."""
        self._waiting.add(notify)

    def forget(self, notify: Callable[[], None]) -> None:
        """Cancels a `wait`."""
        self._waiting.discard(notify)

    def relieve(self) -> None:
        """Notifies the waiting callers if the server is not crowded. Call it when fewer elements
        wait."""
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
        return sum(model.context_nbytes() for model in self._models)

    @property
    def crowded(self) -> bool:
        """Whether more elements of all models wait than the server wants to hold."""
        elements = nbytes = 0
        for model in self._models:
            waiting = model.elements()
            elements += waiting
            nbytes += waiting * model.element_nbytes
        return elements >= self._max_pending_elements or nbytes >= self._max_pending_bytes
