"""RPCs of a client on a model: where sessions open and resume, without sockets or a clock."""

from contextlib import nullcontext
from math import inf
from typing import Any

import pytest

import elman
from elman._core.options import Options
from elman._core.recovery.backoff import Backoff
from elman._core.rpc.pool import RpcPool
from elman._core.rpc.rpc import Rpc
from elman._core.rpc.server_channels import ServerChannels
from elman._core.session.session import Session
from elman._core.session.session_options import SessionOptions
from elman._wire.outputs import resolve
from elman.errors import ElmanError, Unavailable
from elman.v1 import inference_pb2 as pb
from tests.client.peer import KNOWN, MODEL
from tests.client.peer_link import finished
from tests.client.roaming import PARKED, Server

CONNECT, RESUME = 5.0, 60.0


class Call:
    """A call to a scripted server."""

    def __init__(self, shell: "Shell") -> None:
        self.server = Server(window=8, ticket_every=5)
        self.started = 0
        self.rpc = Rpc(
            KNOWN,
            shell.channels.lease(),
            shell.pool,
            max_frame_bytes=5000,
            writable=lambda: None,
        )

    def start(self) -> None:
        self.started += 1

    def run(self) -> None:
        """Writes all frames, and receives all answers."""
        while frame := self.rpc.multiplexer.take():
            self._receive(self.server.take(frame))
        self._receive(self.server.answer(dict.fromkeys(list(self.server.texts), 100)))

    def hand_over(self, reason: pb.CloseReason.ValueType) -> None:
        self._receive(self.server.hand_over(list(self.server.texts), reason))

    def _receive(self, response: pb.StreamResponse) -> None:
        self.rpc.first_answer("a server")
        self.rpc.multiplexer.receive(response)


class Shell:
    """Calls that are made, and a clock."""

    def __init__(self, *targets: str) -> None:
        self.now = 100.0
        self.made: list[Call] = []
        self.reconnectors = 0
        self.errors: list[ElmanError] = []
        self.broken = False
        self.channels: ServerChannels[str] = ServerChannels(
            targets or ("a", "b"),
            str,
            lambda channel: None,
            lock=nullcontext(),
            clock=lambda: self.now,
        )
        options = Options(
            targets=targets or ("a", "b"),
            timeout=30.0,
            connect_timeout=CONNECT,
            max_message_bytes=1 << 20,
            keepalive=inf,
            metadata=(),
            resume_timeout=RESUME,
            ticket_every=5,
        )
        backoff = Backoff(lambda low, high: high)
        self.pool: RpcPool[Call] = RpcPool(self.channels, options, self, lambda: self.now, backoff)

    def new_call(self) -> Call:
        if self.broken:
            raise RuntimeError("can't start new thread")
        self.made.append(Call(self))
        return self.made[-1]

    def need_reconnector(self) -> None:
        self.reconnectors += 1

    def wake_reconnector(self) -> None: ...

    def failed(self, error: ElmanError) -> None:
        self.errors.append(error)

    def open(self) -> Session:
        options = SessionOptions(layout=resolve(MODEL, "echo"), ticket_every=5)
        return self.pool.open(options, lambda: None)

    def opened(self) -> Session:
        """A session on a server, with a prediction to wait for."""
        session = self.open()
        self.made[-1].run()
        finished(session.push("ab"))
        return session

    def turn(self, at: float) -> Any:
        self.now = at
        return self.pool.turn()


def failure(session: Session) -> ElmanError:
    assert session.failure is not None
    return session.failure()


def test_sessions_share_an_rpc() -> None:
    shell = Shell()
    shell.open()
    shell.open()
    assert [call.started for call in shell.made] == [2]
    assert shell.pool.calls == shell.made


def test_a_call_without_an_answer_by_the_deadline_is_aborted() -> None:
    shell = Shell()
    shell.open()
    assert shell.reconnectors == 1
    assert shell.turn(100.0).at == 100.0 + CONNECT
    turn = shell.turn(100.0 + CONNECT)
    assert turn.silent == shell.made
    assert turn.at == shell.now, "the next turn follows at once"
    assert shell.turn(100.0 + CONNECT).silent == []


def test_after_an_answer_there_is_nothing_to_wait_for() -> None:
    shell = Shell()
    shell.opened()
    turn = shell.turn(100.0)
    assert (turn.silent, turn.at) == ([], inf)


def test_a_session_of_a_broken_rpc_is_resumed_on_the_next_server() -> None:
    shell = Shell()
    session = shell.opened()
    first = shell.made[0]
    assert first.rpc.end(Unavailable("cut"))
    assert [str(error) for error in shell.errors] == ["cut"]
    assert shell.pool.has_orphans and not shell.pool.calls
    turn = shell.turn(shell.now)
    assert turn.at > shell.now and len(shell.made) == 1
    shell.turn(turn.at)
    second = shell.made[1]
    assert second.rpc.server_channel.target != first.rpc.server_channel.target
    second.run()
    assert len(session.inbox) == 2


def test_lost_orphans_leave_nothing_to_wait_for() -> None:
    shell = Shell()
    session = shell.opened()
    shell.made[0].rpc.end(Unavailable("cut"))
    shell.pool.lose_orphans(Unavailable("the client's task was cancelled"))
    assert str(failure(session)).endswith("the client's task was cancelled")
    assert not shell.pool.has_orphans
    assert shell.pool._recovery._trials == {}


def test_an_rpc_ends_once() -> None:
    shell = Shell()
    shell.opened()
    assert shell.made[0].rpc.end(Unavailable("cut"))
    assert not shell.made[0].rpc.end(Unavailable("again"))
    assert [str(error) for error in shell.errors] == ["cut"]


def test_a_server_that_parks_a_session_stays_current() -> None:
    shell = Shell()
    session = shell.opened()
    shell.made[0].run()
    shell.made[0].hand_over(PARKED)
    assert session.parked and not shell.pool.has_orphans
    finished(session.push("c"))
    assert len(shell.made) == 2, "the first RPC ended with its last session"
    assert shell.made[1].rpc.server_channel is shell.made[0].rpc.server_channel
    shell.made[1].run()
    assert len(session.inbox) == 3


def test_a_session_that_no_server_resumes_in_time_is_lost() -> None:
    shell = Shell()
    session = shell.opened()
    shell.made[0].rpc.end(Unavailable("cut"))
    shell.turn(shell.turn(shell.now).at)
    shell.turn(100.0 + RESUME)
    lost = failure(session)
    assert isinstance(lost, elman.SessionLost)
    assert str(lost).endswith("no server resumed the session within 60 s")


def test_a_call_that_can_not_be_made_loses_the_sessions_and_nothing_else() -> None:
    shell = Shell()
    session = shell.opened()
    shell.made[0].rpc.end(Unavailable("cut"))
    shell.broken = True
    shell.turn(shell.turn(shell.now).at)
    with pytest.raises(elman.SessionLost, match=r"failed to resume the session: .*new thread"):
        raise failure(session)
    shell.broken = False
    shell.opened()


def test_a_closed_pool_has_no_orphans() -> None:
    shell = Shell()
    orphan = shell.opened()
    shell.made[0].rpc.end(Unavailable("cut"))
    session = shell.opened()
    closed = elman.ClientClosed("the client was closed")
    assert shell.pool.close(closed) == [shell.made[1]]
    assert isinstance(failure(orphan), elman.ClientClosed)
    shell.made[1].rpc.end(Unavailable("cut"))
    assert isinstance(failure(session), elman.SessionLost)
    assert shell.turn(shell.now).at == inf
