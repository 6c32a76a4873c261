"""A connection to an Elman server, for threads."""

import contextlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import monotonic, sleep
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc

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
from elman._process.home import Home, check_gevent, close_at_exit, keep_in_children, refuse_pickle
from elman._threads.model_sessions import ModelSessions
from elman._threads.ready import wait_until_connected
from elman._threads.session_handle import SessionHandle
from elman._threads.stream import Stream
from elman._wire.channel import Channel
from elman._wire.model import Model
from elman._wire.outputs import OutputChoice
from elman._wire.prediction import Predictions
from elman._wire.status import is_refused, is_too_large, is_unavailable, rpc_error
from elman.errors import ClientClosed, ElmanError, Unavailable
from elman.v1 import inference_pb2 as pb


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
        self._credentials = credentials
        self._home = Home()
        self._keepalive = Keepalive(options.keepalive)
        self._channels = ServerChannels(
            options.targets,
            self._connect,
            lambda channel: channel.grpc.close(),
            lock=threading.Lock(),
        )
        keep_in_children(self._channels)
        close_at_exit(self._channels)
        self._cache = ModelCache()
        self._pools: dict[tuple[str, str, str], ModelSessions] = {}
        self._lock = threading.Lock()
        self._closed = False

    def wait_until_ready(self) -> None:
        """Waits for a connection. Raises `Unavailable` after the connect timeout."""
        until = monotonic() + self._options.connect_timeout
        backoff = Backoff()
        while True:
            server_channel = self._channels.lease()
            try:
                # With one server, gRPC retries by itself; with several, the client tries the next.
                patient = len(self._options.targets) == 1
                seconds = min(until - monotonic(), self._options.connect_seconds)
                if wait_until_connected(server_channel.channel.grpc, seconds, patient=patient):
                    return
                if monotonic() >= until:
                    raise Unavailable(self._options.unreachable(_why(server_channel.channel.grpc)))
                self._channels.retire(server_channel)
            finally:
                self._channels.give_back(server_channel)
            sleep(min(backoff.delay(), max(0.0, until - monotonic())))

    def models(self) -> list[Model]:
        """Models ready on the server, sorted by name, then by version, newest last."""
        response = self._ask("ListModels", pb.ListModelsRequest())
        return [read_model(self._complete(model)) for model in response.models]

    def model(
        self, name: str, version: str | int | None = None, *, session: str | None = None
    ) -> Model:
        """Returns a model: the given version, or the newest. Raises `ModelNotFound`.

        With `session` and no version: the version in use by the session of the given name.
        """
        if version is None and check_name(session):
            return self._known(name, None, None, session).model
        request = model_request(name, version)
        return self._cache.put(request, self._get(request)).model

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
        name = check_name(session)
        ticket = check_ticket(ticket, self._options.max_message_bytes)
        known = self._known(
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
        handle = self._open(known, options, Deadline(seconds))

        def fork(ticket: bytes) -> Stream:
            from_ticket = replace(options, contexts=(), ticket=ticket, name="", restart=False)
            branch = self._open(known, from_ticket, Deadline(seconds))
            return Stream(branch, known, seconds, fork)

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
        known = self._known(model, version)
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
                return call.read(self._call("Predict", call.request(), deadline.remaining()))
            except grpc.RpcError as error:
                if not is_too_large(error):
                    raise rpc_error(error) from None
        handle = self._open(known, options, deadline)
        try:
            pipeline = Pipeline(handle.session, call.payload)
            return call.gather(handle.run(pipeline.rest(), deadline))
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
            pools = list(self._pools.values())
        deadline = monotonic() + grace
        try:
            for pool in pools:
                pool.close_sessions()
            for pool in pools:
                pool.join(max(0, deadline - monotonic()))
        finally:
            for pool in pools:
                pool.cancel(ClientClosed("the client was closed"))
            self._channels.close()

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

    def _connect(self, target: str) -> Channel[grpc.Channel]:
        options = self._options
        arguments = options.channel_arguments(self._keepalive.seconds, ANSWER_SECONDS)
        if self._credentials is None:
            return Channel(grpc.insecure_channel(target, arguments))
        return Channel(grpc.secure_channel(target, self._credentials, arguments))

    def _call(self, method: str, request: Any, seconds: float | None) -> Any:
        """Makes a unary call. Retries on one server after another within the connect timeout."""
        attempts = Attempts(self._options.connect_timeout, Backoff())
        until = None if seconds is None else monotonic() + seconds
        while True:
            self._check()
            server_channel = self._channels.lease()
            try:
                call = getattr(server_channel.channel.stub, method)
                left = None if until is None else max(0.0, until - monotonic())
                answer = call(request, timeout=left, metadata=self._options.metadata)
                server_channel.worked = True
                return answer
            except (grpc.RpcError, ValueError) as error:
                self._check()
                delay = (
                    attempts.again(broke=server_channel.worked) if is_unavailable(error) else None
                )
                if delay is None:
                    raise
                if not is_refused(error):
                    self._channels.retire(server_channel)
            finally:
                self._channels.give_back(server_channel)
            sleep(delay)

    def _ask(self, method: str, request: Any) -> Any:
        try:
            return self._call(method, request, rpc_timeout(self._options.timeout))
        except grpc.RpcError as error:
            raise rpc_error(error) from None

    def _known(
        self,
        name: str,
        version: str | int | None,
        ticket: bytes | None = None,
        session: str | None = None,
    ) -> KnownModel:
        request = model_request(name, version)
        if version is None and (ticket or session):
            pin(request, ticket, session)
            return KnownModel.of(self._get(request))
        known = self._cache.get(request)
        return known or self._cache.put(request, self._get(request))

    def _get(self, request: pb.GetModelRequest) -> Any:
        response = self._ask("GetModel", request)
        self._complete(response.model)
        return response

    def _complete(self, model: pb.Model) -> pb.Model:
        """Adds the labels omitted from an answer for lack of room in the message."""
        asking = omitted_labels(model)
        with contextlib.suppress(StopIteration):
            request = next(asking)
            while True:
                request = asking.send(self._ask("ListLabels", request))
        return model

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
            handle.run(handle.session.opening(), deadline)
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


def _why(channel: grpc.Channel) -> str:
    """gRPC's reason for a missing connection. Any method works for the probe: the call fails
    unsent."""
    try:
        probe: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        probe = channel.unary_unary("/grpc.health.v1.Health/Check")
        probe(b"", timeout=0.1)
    except grpc.RpcError as error:
        return str(rpc_error(error))
    return "it answers now"
