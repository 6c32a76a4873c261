"""Opens of one caller's sessions, from the client's request to the engine's."""

from collections.abc import Callable

from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.sessions.initial_state import InitialState
from elman_server.engine.sessions.request import OpenRequest
from elman_server.errors import InvalidRequest, Overloaded
from elman_server.frontend.connection.frame import Open
from elman_server.frontend.connection.naming import NamedOpen, Naming
from elman_server.frontend.connection.ticketing import Ticketing
from elman_server.model.selection import OutputRequest, Selection
from elman_server.serving.served import ServedModel
from elman_server.telemetry.table import SESSIONS_REJECTED

_KNOWN_SELECTIONS = 64


class Opener:
    def __init__(
        self,
        *,
        model: ServedModel,
        ticketing: Ticketing,
        naming: Naming,
        admit: Callable[[], None],
        max_message_bytes: int,
    ) -> None:
        """`admit` counts an open of the caller, and may raise `Overloaded`."""
        self._model = model
        self._ticketing = ticketing
        self._naming = naming
        self._admit = admit
        self._max_message_bytes = max_message_bytes
        self._selections: dict[tuple[OutputRequest, ...], Selection] = {}

    def admit(self) -> None:
        """Counts an open. Raises `Overloaded`."""
        try:
            self._admit()
        except Overloaded as error:
            self._model.metrics.inc(SESSIONS_REJECTED, by=error.reason)
            raise

    def named(self, message: Open) -> NamedOpen | None:
        """Returns the checked request for the lookup of a named session; None for other sessions.
        Raises a `ServerError`."""
        if message.fingerprint:
            self._ticketing.check_fingerprint(message.fingerprint)
        if message.ticket and message.contexts:
            raise InvalidRequest("a session is opened with a ticket and contexts; allowed is one")
        if message.name:
            return self._naming.check(message)
        if message.restart:
            raise InvalidRequest("a session is opened with restart and no name")
        return None

    def request(self, message: Open, named: NamedOpen | None, outbox: Outbox) -> OpenRequest:
        """Returns the engine's request. Raises a `ServerError`."""
        initial_state = self._initial_state(message) if named is None else named.given
        return OpenRequest(
            number=message.number,
            outbox=outbox,
            selection=self._selection(message),
            initial_state=initial_state,
            awaited=named is not None,
            cadence=self._ticketing.cadence(message),
            parkable=message.parkable and self._model.tickets.available,
        )

    def _initial_state(self, message: Open) -> InitialState | None:
        if message.ticket:
            return self._ticketing.redeem(message.ticket)
        return self._model.contexts.decode(message.contexts)

    def _selection(self, message: Open) -> Selection:
        """Returns the selection of outputs. Sessions with equal requests share an object, so their
        predictions are packed together. Raises `InvalidRequest`."""
        if message.invalid:
            raise InvalidRequest(message.invalid)
        selection = self._selections.get(message.outputs)
        if selection is None:
            selection = Selection(message.outputs, self._model.file.spec.outputs)
            if selection.element_nbytes > self._max_message_bytes // 2:
                raise InvalidRequest(
                    f"the outputs take {selection.element_nbytes} bytes an element; allowed is "
                    f"{self._max_message_bytes // 2}, half of the message limit"
                )
            if len(self._selections) >= _KNOWN_SELECTIONS:
                self._selections.clear()
            self._selections[message.outputs] = selection
        return selection
