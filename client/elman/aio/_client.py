"""A connection to an Elman server, for asyncio."""

import asyncio
from collections.abc import Mapping, Sequence
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
from elman._wire.model import Model
from elman._wire.outputs import OutputChoice
from elman._wire.prediction import Predictions
from elman._wire.status import is_too_large, rpc_error
from elman.aio._lookups import Lookups
from elman.aio._model_sessions import ModelSessions
from elman.aio._opening import Opening
from elman.aio._servers import Servers
from elman.aio._session_handle import SessionHandle
from elman.aio._stream import Stream
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
) -> Opening["Client"]:
    """Connects to the server at `target`, such as "localhost:50051", or to any of several servers.

    See `elman.connect`.
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
    return Opening(_connect(options, credentials))


async def _connect(options: Options, credentials: grpc.ChannelCredentials | None) -> "Client":
    client = Client(options, credentials)
    try:
        await client.wait_until_ready()
    except BaseException:
        await client.close(grace=0)
        raise
    return client


class Client:
    """Connection to Elman servers, made by `connect`. Any number of tasks may use a client at
    once."""

    def __init__(self, options: Options, credentials: grpc.ChannelCredentials | None) -> None:
        self._options = options
        self._home = Home(asyncio.get_running_loop())
        self._keepalive = Keepalive(options.keepalive)
        self._servers = Servers(options, credentials, self._keepalive, self._check)
        self._lookups = Lookups(self._servers)
        self._sessions: dict[tuple[str, str, str], ModelSessions] = {}
        self._closed = False

    async def wait_until_ready(self) -> None:
        """Waits for a connection. Raises `Unavailable` after the connect timeout."""
        await self._servers.wait_until_ready()

    async def models(self) -> list[Model]:
        """Models ready on the server, sorted by name, then by version, newest last."""
        return await self._servers.ask(list_models())

    async def model(
        self, name: str, version: str | int | None = None, *, session: str | None = None
    ) -> Model:
        """Returns a model: the given version, or the newest. Raises `ModelNotFound`.

        With `session` and no version: the version in use by the session of the given name.
        """
        self._home.check()
        session = check_name(session) if version is None else None
        request = model_request(name, version, session=session)
        lookup = self._lookups.get if is_pinned(request) else self._lookups.request
        return (await lookup(request)).model

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
    ) -> Opening[Stream]:
        """Opens a session of a model: from its initial state, from a ticket or by name.

        See `elman.Client.stream`.
        """
        arguments = StreamArguments(
            context=context,
            outputs=outputs,
            window=window,
            ticket=ticket,
            name=session,
            restart=restart,
        )
        return Opening(self._stream(model, version, arguments, timeout))

    async def predict(
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

        See `elman.Client.predict`.
        """
        self._home.check()
        known = await self._lookups.get(model_request(model, version))
        options = StreamArguments(context=context, outputs=outputs).session_options(
            known.model, self._options
        )
        call = PredictCall(known, options, sequence)
        deadline = Deadline(self._seconds(timeout))
        if call.fits(self._options.max_message_bytes):
            try:
                return call.read(
                    await self._servers.call("Predict", call.request(), deadline.remaining())
                )
            except grpc.RpcError as error:
                if not is_too_large(error):
                    raise rpc_error(error) from None
        handle = await self._open(known, options, deadline)
        try:
            pipeline = Pipeline(handle.session, call.payload)
            return call.gather(await handle.run(pipeline.collect(), deadline))
        finally:
            handle.close()

    async def close(self, grace: float = 5.0) -> None:
        """Closes every stream and disconnects.

        Pushed elements get `grace` seconds to finish. Calls still waiting afterwards raise
        `ClientClosed`.
        """
        if self._home.forked:
            return
        self._home.check()
        self._closed = True
        sessions = list(self._sessions.values())
        try:
            for each in sessions:
                each.close_sessions()
            await asyncio.gather(*(each.join(grace) for each in sessions))
        finally:
            error = ClientClosed("the client was closed")
            await asyncio.gather(*(each.cancel(error) for each in sessions))
            await self._servers.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
        else:
            await self.close(grace=0)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        refuse_pickle("Client")

    def __repr__(self) -> str:
        return f"<Client of {self._options.target}>"

    def _seconds(self, timeout: float | None) -> float:
        return self._options.timeout if timeout is None else check_seconds("timeout", timeout)

    async def _stream(
        self,
        model: str,
        version: str | int | None,
        arguments: StreamArguments,
        timeout: float | None,
    ) -> Stream:
        arguments = arguments.checked(self._options)
        self._home.check()
        known = await self._lookups.get(arguments.lookup(model, version))
        options = arguments.session_options(known.model, self._options)
        seconds = self._seconds(timeout)

        async def fork(ticket: bytes) -> Stream:
            branch = await self._open(known, options.fork(ticket), Deadline(seconds))
            return Stream(branch, known, seconds, fork)

        handle = await self._open(known, options, Deadline(seconds))
        return Stream(handle, known, seconds, fork)

    async def _open(
        self, known: KnownModel, options: SessionOptions, deadline: Deadline
    ) -> SessionHandle:
        """Opens a session on the model's current RPC or on a new RPC, and waits for the server's
        answer."""
        self._check()
        model = known.model
        key = (model.name, model.version, model.fingerprint)
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
            await handle.run(handle.session.opening(), deadline)
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
