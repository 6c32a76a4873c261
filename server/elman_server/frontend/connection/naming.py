"""Names of sessions: the check of a client's request to open a named session."""

import hashlib
import secrets
from dataclasses import dataclass

from elman_server.durable.named.rewinding import Resumption
from elman_server.durable.tickets.content import ATTACHMENT_NBYTES
from elman_server.engine.sessions.initial_state import InitialState
from elman_server.errors import InvalidRequest
from elman_server.frontend.caller import Caller
from elman_server.frontend.connection.frame import Open
from elman_server.frontend.connection.ticketing import Ticketing
from elman_server.serving.served import ServedModel

MAX_NAME_NBYTES = 256


def key(model: str, caller: Caller, name: str) -> str:
    """Returns a session's key in the state store. Each model and each identity has separate keys.
    Raises `InvalidRequest` if the name is too long."""
    nbytes = len(name.encode())
    if nbytes > MAX_NAME_NBYTES:
        raise InvalidRequest(f"the session's name has {nbytes} bytes; allowed is {MAX_NAME_NBYTES}")
    identity = hashlib.sha256(caller.identity.encode()).hexdigest()[:16]
    return f"{model}:{identity}:{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedOpen:
    """A checked request to open a named session."""

    key: str
    owner: str
    """Id of the client's attachment to the session, in hex."""
    again: Resumption | None
    """The resumption, if the client has a ticket of the session."""
    given: InitialState | None
    """The ticket's snapshot, or the initial state of a new session."""
    lacking: InvalidRequest | None = None
    """Error for a new session, such as missing contexts. Ignored if the store has the session."""
    restart: bool


class Naming:
    def __init__(
        self, model: ServedModel, caller: Caller, ticketing: Ticketing, *, available: bool
    ) -> None:
        """`available`: whether the server has a state store."""
        self._model = model
        self._caller = caller
        self._ticketing = ticketing
        self._available = available

    def check(self, message: Open) -> NamedOpen:
        """Checks a request to open a named session. Raises a `ServerError`."""
        if not self._available:
            raise InvalidRequest(
                f"session {message.name!r} has a name; this server has no state store"
            )
        if not self._model.tickets.available:
            raise InvalidRequest(
                f"session {message.name!r} has a name; the model's state is too large to be kept"
            )
        name = key(self._model.source.name, self._caller, message.name)
        if message.restart and message.ticket:
            raise InvalidRequest("a session is opened with a ticket and restart; allowed is one")
        if message.ticket:
            snapshot, attachment = self._ticketing.redeem_named(message.ticket, name)
            again = Resumption(
                position=snapshot.position,
                attachment=attachment.id,
                replay=message.replay,
            )
            owner = attachment.id.hex()
            return NamedOpen(key=name, owner=owner, again=again, given=snapshot, restart=False)
        given, lacking = None, None
        try:
            given = self._model.contexts.decode(message.contexts)
        except InvalidRequest as error:
            if message.contexts or message.restart:
                raise
            lacking = error  # an existing session needs no contexts
        return NamedOpen(
            key=name,
            owner=secrets.token_hex(ATTACHMENT_NBYTES),
            again=None,
            given=given,
            lacking=lacking,
            restart=message.restart,
        )
