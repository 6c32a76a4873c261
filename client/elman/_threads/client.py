"""A connection to an Elman server, for threads."""

import threading
from collections.abc import Mapping, Sequence
from time import monotonic
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc

from elman._core.keepalive import DEFAULT_SECONDS, Keepalive, allowed
from elman._core.models import KnownModel, is_pinned, list_models, model_request
from elman._core.options import Metadata, Options, check_seconds, parse_targets
from elman._core.predict import PredictCall
from elman._core.session.deadline import Deadline
from elman._core.session.pipeline import Pipeline
from elman._core.session.session_options import SessionOptions, StreamArguments, check_name
from elman._process.home import Home, check_gevent, refuse_pickle
from elman._threads.lookups import Lookups
from elman._threads.model_sessions import ModelSessions
from elman._threads.servers import Servers
from elman._threads.session_handle import SessionHandle
from elman._threads.stream import Stream
from elman._wire.model import Model
from elman._wire.outputs import OutputChoice
from elman._wire.prediction import Predictions
from elman._wire.status import is_too_large, rpc_error
from elman.errors import ClientClosed, ElmanError


def connect(
    target: str | Sequence[str],
    *,
    timeout: float = 30.0,
    connect_timeout: float = 5.0,
    max_message_bytes: int = 4 * 1024 * 1024,
    keepalive: float = DEFAULT_SECONDS,
    credentials: grpc.ChannelCredentials | None = None,
    metadata: Metadata = (),
    resume_timeout: float = 60.0,
    ticket_every: int = 1000,
) -> "Client":
    """Connects to the server at `target`, such as "localhost:50051", or to any of several servers.

    `target`: one server, or several in a list or separated by commas. The client uses one server,
        and the next after a failure. If a name has several addresses, the client uses any of them.

    `timeout`: seconds that any call waits for the server; inf waits for ever. Waiting for
        predictions of elements not yet pushed does not count.
    `connect_timeout`: seconds in which the server must be reached.
    `max_message_bytes`: the largest message sent; larger work is split.
    `keepalive`: seconds of silence before a ping checks the connection, while a stream or a call is
        open. The client gives the connection up if no answer comes in 5 s. The minimum is 5, the
        limit of Elman servers; inf sends no pings. If a proxy allows fewer pings and reports the
        limit, the client uses 300 from then on.
    `credentials`: for TLS; None connects without encryption.
    `metadata`: sent with every call, for example for a proxy's authentication.
    `resume_timeout`: seconds of retries to resume a stream from its last ticket, on any server,
        after its connection broke or its server stopped. 0 turns resuming off.
    `ticket_every`: a stream gets a ticket after at most so many elements. The client keeps as many
        elements, and one window more, to push them again.

    Raises `Unavailable` if the server cannot be reached.
    """
    check_gevent()
    options = Options(
        targets=parse_targets(target),
        timeout=timeout,
        connect_timeout=connect_timeout,
        max_message_bytes=max_message_bytes,
        keepalive=allowed(keepalive),
        metadata=metadata,
        resume_timeout=resume_timeout,
        ticket_every=ticket_every,
    )
    client = Client(options, credentials)
    try:
        client.wait_until_ready()
    except BaseException:
        client.close(grace=0)
        raise
    return client


class Client:
    """Connection to Elman servers, made by `connect`. Any number of threads may use a client at
    once."""

    def __init__(self, options: Options, credentials: grpc.ChannelCredentials | None) -> None:
        self._options = options
        self._home = Home()
        self._keepalive = Keepalive(options.keepalive)
        self._servers = Servers(options, credentials, self._keepalive, self._check)
        self._lookups = Lookups(self._servers)
        self._sessions: dict[tuple[str, str, str], ModelSessions] = {}
        self._lock = threading.Lock()
        self._closed = False

    def wait_until_ready(self) -> None:
        """Waits for a connection. Raises `Unavailable` after the connect timeout."""
        self._servers.wait_until_ready()

    def models(self) -> list[Model]:
        """Models ready on the server, sorted by name, then by version, newest last."""
        return self._servers.ask(list_models())

    def model(
        self, name: str, version: str | int | None = None, *, session: str | None = None
    ) -> Model:
        """Returns a model: the given version, or the newest. Raises `ModelNotFound`.

        With `session` and no version: the version in use by the session of the given name.
        """
        self._home.check()
        session = check_name(session) if version is None else None
        request = model_request(name, version, session=session)
        lookup = self._lookups.get if is_pinned(request) else self._lookups.request
        return lookup(request).model

    def stream(
        self,
        model: str,
        *,
        version: str | int | None = None,
        context: Mapping[str, Any] | None = None,
        outputs: OutputChoice | Sequence[OutputChoice] | None = None,
        window: int | None = None,
        timeout: float | None = None,
        ticket: bytes | None = None,
        session: str | None = None,
        restart: bool = False,
    ) -> Stream:
        """Opens a session of a model: from its initial state, from a ticket or by name.

        `context`: an array for each name in `model.contexts`, if the model has contexts.
        `outputs`: names, or `Raw`, `Probabilities` or `Top`; None requests every output, raw.
        `window`: limit of unanswered elements, if lower than the server's limit.
        `timeout`: seconds for the stream's calls, in place of the client's timeout.
        `ticket`: from `stream.ticket()`, of the same model. The session resumes from the ticket, on
            the ticket's model version. The stream's `position` is then the position of the next
            element to push.
        `session`: a name. Resumes the session of the name where it was left, or begins a new
            session. Servers with a shared state store keep a named session after the stream's
            close. A named session belongs to one stream at a time: the new stream takes the session
            over, and the previous stream raises `SessionTaken`.
        `restart`: begins the named session anew.

        Raises `ModelNotFound`, `InvalidRequest`, or `ServerOverloaded` with `retry_after`.
        """
        arguments = StreamArguments(
            context=context,
            outputs=outputs,
            window=window,
            ticket=ticket,
            name=session,
            restart=restart,
        ).checked(self._options)
        self._home.check()
        known = self._lookups.get(arguments.lookup(model, version))
        options = arguments.session_options(known.model, self._options)
        seconds = self._seconds(timeout)

        def fork(ticket: bytes) -> Stream:
            branch = self._open(known, options.fork(ticket), Deadline(seconds))
            return Stream(branch, known, seconds, fork)

        handle = self._open(known, options, Deadline(seconds))
        return Stream(handle, known, seconds, fork)

    def predict(
        self,
        model: str,
        sequence: Any,
        *,
        version: str | int | None = None,
        context: Mapping[str, Any] | None = None,
        outputs: OutputChoice | Sequence[OutputChoice] | None = None,
        timeout: float | None = None,
    ) -> Predictions:
        """Predictions for a whole sequence, without keeping a session.

        Makes a unary call if sequence and predictions fit into a message, and opens a stream
        otherwise. `timeout`: seconds for all of the work, in place of the client's timeout. Raises
        the errors of `stream`, and `InvalidElement`.
        """
        self._home.check()
        known = self._lookups.get(model_request(model, version))
        options = StreamArguments(context=context, outputs=outputs).session_options(
            known.model, self._options
        )
        call = PredictCall(known, options, sequence)
        deadline = Deadline(self._seconds(timeout))
        if call.fits(self._options.max_message_bytes):
            try:
                return call.read(
                    self._servers.call("Predict", call.request(), deadline.remaining())
                )
            except grpc.RpcError as error:
                if not is_too_large(error):
                    raise rpc_error(error) from None
        handle = self._open(known, options, deadline)
        try:
            pipeline = Pipeline(handle.session, call.payload)
            return call.gather(handle.run(pipeline.collect(), deadline))
        finally:
            handle.close()

    def close(self, grace: float = 5.0) -> None:
        """Closes every stream and disconnects.

        Pushed elements get `grace` seconds to finish. Calls still waiting afterwards raise
        `ClientClosed`.
        """
        if self._home.forked:
            return
        with self._lock:
            self._closed = True
            sessions = list(self._sessions.values())
        deadline = monotonic() + grace
        try:
            for each in sessions:
                each.close_sessions()
            for each in sessions:
                each.join(max(0, deadline - monotonic()))
        finally:
            for each in sessions:
                each.cancel(ClientClosed("the client was closed"))
            self._servers.channels.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.close(grace=0)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        refuse_pickle("Client")

    def __repr__(self) -> str:
        return f"<Client of {self._options.target}>"

    def _seconds(self, timeout: float | None) -> float:
        return self._options.timeout if timeout is None else check_seconds("timeout", timeout)

    def _open(
        self, known: KnownModel, options: SessionOptions, deadline: Deadline
    ) -> SessionHandle:
        """Opens a session on the model's current RPC or on a new RPC, and waits for the server's
        answer."""
        model = known.model
        key = (model.name, model.version, model.fingerprint)
        self._check()
        with self._lock:
            self._check()
            sessions = self._sessions.get(key)
            if sessions is None:
                sessions = self._sessions[key] = ModelSessions(
                    self._home,
                    known,
                    self._servers.channels,
                    self._options,
                    lambda error: self._failed(model.name, error),
                )
            handle = sessions.open(options)
        try:
            handle.run(handle.session.opening(), deadline)
        except BaseException:
            handle.close()
            raise
        return handle

    def _failed(self, model: str, error: ElmanError) -> None:
        self._lookups.forget(model)
        self._keepalive.adapt(error)

    def _check(self) -> None:
        self._home.check()
        if self._closed:
            raise ClientClosed("the client was closed")
