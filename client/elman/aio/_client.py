"""A connection to an Elman server, for asyncio."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import monotonic
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc
from grpc import aio

from elman._core.keepalive import ANSWER_SECONDS, DEFAULT_SECONDS, Keepalive, allowed
from elman._core.models import (
    KnownModel,
    ModelCache,
    model_request,
    omitted_labels,
    pin,
    read_model,
)
from elman._core.options import Metadata, Options, check_seconds, parse_targets, rpc_timeout
from elman._core.predict import PredictCall
from elman._core.recovery.recovery import Attempts, Backoff
from elman._core.rpc.server_channels import ServerChannels
from elman._core.session.deadline import Deadline
from elman._core.session.pipeline import Pipeline
from elman._core.session.session_options import (
    SessionOptions,
    check_name,
    check_ticket,
    session_options,
)
from elman._process.home import Home, check_gevent, keep_in_children, refuse_pickle
from elman._wire.channel import Channel
from elman._wire.model import Model
from elman._wire.outputs import OutputChoice
from elman._wire.prediction import Predictions
from elman._wire.status import is_refused, is_too_large, is_unavailable, rpc_error
from elman.aio._model_sessions import ModelSessions
from elman.aio._opening import Opening
from elman.aio._ready import wait_until_connected
from elman.aio._session_handle import SessionHandle
from elman.aio._stream import Stream
from elman.errors import ClientClosed, ElmanError, Unavailable
from elman.v1 import inference_pb2 as pb

_DISCONNECT_SECONDS = 2.0
"""Timeout in seconds for gRPC to close a connection. Usually gRPC closes at once."""


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
        self._credentials = credentials
        self._home = Home(asyncio.get_running_loop())
        self._keepalive = Keepalive(options.keepalive)
        self._closing: set[asyncio.Task[None]] = set()
        self._channels = ServerChannels(options.targets, self._connect, self._disconnect)
        keep_in_children(self._channels)
        self._cache = ModelCache()
        self._asking: dict[tuple[str, str], asyncio.Task[KnownModel]] = {}
        self._pools: dict[tuple[str, str, str], ModelSessions] = {}
        self._closed = False

    async def wait_until_ready(self) -> None:
        """Waits for a connection. Raises `Unavailable` after the connect timeout."""
        until = monotonic() + self._options.connect_timeout
        backoff = Backoff()
        while True:
            server_channel = self._channels.lease()
            try:
                # With one server, gRPC retries by itself; with several, the client tries the next.
                patient = len(self._options.targets) == 1
                seconds = min(until - monotonic(), self._options.connect_seconds)
                channel = server_channel.channel.grpc
                if await wait_until_connected(channel, seconds, patient=patient):
                    return
                if monotonic() >= until:
                    raise Unavailable(self._options.unreachable(await _why(channel)))
                self._channels.retire(server_channel)
            finally:
                self._channels.give_back(server_channel)
            await asyncio.sleep(min(backoff.delay(), max(0.0, until - monotonic())))

    async def models(self) -> list[Model]:
        """Models ready on the server, sorted by name, then by version, newest last."""
        response = await self._ask("ListModels", pb.ListModelsRequest())
        return [read_model(await self._complete(model)) for model in response.models]

    async def model(
        self, name: str, version: str | int | None = None, *, session: str | None = None
    ) -> Model:
        """Returns a model: the given version, or the newest. Raises `ModelNotFound`.

        With `session` and no version: the version in use by the session of the given name.
        """
        if version is None and check_name(session):
            return (await self._known(name, None, None, session)).model
        return (await self._fetch(model_request(name, version))).model

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
        return Opening(
            self._stream(
                model, version, context, outputs, window, timeout, ticket, session, restart
            )
        )

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
        known = await self._known(model, version)
        options = session_options(
            known.model,
            context=context,
            outputs=outputs,
            ticket_every=self._options.asked_ticket_every,
            max_message_bytes=self._options.max_message_bytes,
        )
        call = PredictCall(known, options, sequence)
        deadline = Deadline(self._seconds(timeout))
        if call.fits(self._options.max_message_bytes):
            try:
                return call.read(await self._call("Predict", call.request(), deadline.remaining()))
            except grpc.RpcError as error:
                if not is_too_large(error):
                    raise rpc_error(error) from None
        handle = await self._open(known, options, deadline)
        try:
            pipeline = Pipeline(handle.session, call.payload)
            return call.gather(await handle.run(pipeline.rest(), deadline))
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
        pools = list(self._pools.values())
        try:
            for pool in pools:
                pool.close_sessions()
            await asyncio.gather(*(pool.join(grace) for pool in pools))
        finally:
            error = ClientClosed("the client was closed")
            await asyncio.gather(*(pool.cancel(error) for pool in pools))
            self._channels.close()
            if self._closing:
                await asyncio.wait(self._closing, timeout=_DISCONNECT_SECONDS)

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
        context: Mapping[str, Any] | None,
        outputs: OutputChoice | Sequence[OutputChoice] | None,
        window: int | None,
        timeout: float | None,
        ticket: bytes | None,
        session: str | None,
        restart: bool,
    ) -> Stream:
        name = check_name(session)
        ticket = check_ticket(ticket, self._options.max_message_bytes)
        known = await self._known(
            model,
            version,
            ticket,
            None if restart else name,
        )
        options = session_options(
            known.model,
            context=context,
            outputs=outputs,
            window=window,
            ticket=ticket,
            name=name,
            restart=restart,
            ticket_every=self._options.asked_ticket_every,
            max_message_bytes=self._options.max_message_bytes,
        )
        seconds = self._seconds(timeout)
        handle = await self._open(known, options, Deadline(seconds))

        async def fork(ticket: bytes) -> Stream:
            from_ticket = replace(options, contexts=(), ticket=ticket, name="", restart=False)
            return Stream(
                await self._open(known, from_ticket, Deadline(seconds)), known, seconds, fork
            )

        return Stream(handle, known, seconds, fork)

    def _connect(self, target: str) -> Channel[aio.Channel]:
        options = self._options
        arguments = options.channel_arguments(self._keepalive.seconds, ANSWER_SECONDS)
        if self._credentials is None:
            return Channel(aio.insecure_channel(target, arguments))
        return Channel(aio.secure_channel(target, self._credentials, arguments))

    def _disconnect(self, channel: Channel[aio.Channel]) -> None:
        task = asyncio.create_task(channel.grpc.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _call(self, method: str, request: Any, seconds: float | None) -> Any:
        """Makes a unary call. Retries on one server after another within the connect timeout."""
        attempts = Attempts(self._options.connect_timeout, Backoff())
        until = None if seconds is None else monotonic() + seconds
        while True:
            self._check()
            server_channel = self._channels.lease()
            try:
                call = getattr(server_channel.channel.stub, method)
                left = None if until is None else max(0.0, until - monotonic())
                answer = await call(request, timeout=left, metadata=self._options.metadata)
                server_channel.worked = True
                return answer
            except grpc.RpcError as error:
                self._check()
                delay = (
                    attempts.again(broke=server_channel.worked) if is_unavailable(error) else None
                )
                if delay is None:
                    raise
                if not is_refused(error):
                    self._channels.retire(server_channel)
            except asyncio.CancelledError:
                # gRPC cancels calls of two kinds: the server did not accept the call, or the
                # channel was closed.
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self._check()
                delay = attempts.again(broke=False)
                if delay is None:
                    raise Unavailable("the server does not take the call in") from None
            finally:
                self._channels.give_back(server_channel)
            await asyncio.sleep(delay)

    async def _ask(self, method: str, request: Any) -> Any:
        try:
            return await self._call(method, request, rpc_timeout(self._options.timeout))
        except grpc.RpcError as error:
            raise rpc_error(error) from None

    async def _known(
        self,
        name: str,
        version: str | int | None,
        ticket: bytes | None = None,
        session: str | None = None,
    ) -> KnownModel:
        request = model_request(name, version)
        if version is None and (ticket or session):
            pin(request, ticket, session)
            return KnownModel.of(await self._get(request))
        known = self._cache.get(request)
        if known is not None:
            return known
        # Concurrent lookups of one model share a single request.
        key = (request.name, request.version)
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._fetch(request))
            task.add_done_callback(lambda _: self._asking.pop(key))
        return await asyncio.shield(task)

    async def _fetch(self, request: pb.GetModelRequest) -> KnownModel:
        return self._cache.put(request, await self._get(request))

    async def _get(self, request: pb.GetModelRequest) -> Any:
        response = await self._ask("GetModel", request)
        await self._complete(response.model)
        return response

    async def _complete(self, model: pb.Model) -> pb.Model:
        """Adds the labels omitted from an answer for lack of room in the message."""
        asking = omitted_labels(model)
        with contextlib.suppress(StopIteration):
            request = next(asking)
            while True:
                request = asking.send(await self._ask("ListLabels", request))
        return model

    async def _open(
        self, known: KnownModel, options: SessionOptions, deadline: Deadline
    ) -> SessionHandle:
        """Opens a session on the model's current RPC or on a new RPC, and waits for the server's
        answer."""
        self._check()
        model = known.model
        key = (model.name, model.version, model.fingerprint)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = ModelSessions(
                self._home,
                known,
                self._channels,
                self._options,
                lambda error: self._failed(model.name, error),
            )
        handle = pool.open(options)
        try:
            await handle.run(handle.session.opening(), deadline)
        except BaseException:
            handle.close()
            raise
        return handle

    def _failed(self, model: str, error: ElmanError) -> None:
        self._cache.forget(model)
        self._keepalive.heed(error)

    def _check(self) -> None:
        self._home.check()
        if self._closed:
            raise ClientClosed("the client was closed")


async def _why(channel: aio.Channel) -> str:
    """gRPC's reason for a missing connection. Any method works for the probe: the call fails
    unsent."""
    try:
        probe: aio.UnaryUnaryMultiCallable[bytes, bytes]
        probe = channel.unary_unary("/grpc.health.v1.Health/Check")
        await probe(b"", timeout=0.1)
    except grpc.RpcError as error:
        return str(rpc_error(error))
    return "it answers now"
