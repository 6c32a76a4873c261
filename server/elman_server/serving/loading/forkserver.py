"""The process that makes the children that load models.

It imports what they need, once, and forks for each; it has one thread, so that a fork is safe. It
runs nothing of any model. For each load it is sent one end of a connection, which the child works
on, and the file that takes the graphs. When a child has ended, its exit code follows what it
answered; when the other end is closed before, it is killed. The fork server ends with the socket
over which it is told, and its children with it.
"""

import contextlib
import os
import select
import signal
import socket
import traceback
from dataclasses import dataclass

from elman_server.process import sandbox
from elman_server.serving.loading.child import work

_MOST_DESCRIPTORS = 2


@dataclass(slots=True, kw_only=True)
class _Child:
    pid: int
    connection: socket.socket
    code: bytes = b""
    """Its exit code, once it has ended, until that is told."""


class ForkServer:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, _Child] = {}
        """By the descriptor of its connection."""
        self._poll = select.poll()
        self._ended, wake = os.pipe()
        for descriptor in (self._ended, wake):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._poll.register(control, select.POLLIN)
        self._poll.register(self._ended, select.POLLIN)

    def run(self) -> None:
        """Returns when nobody is left to load for."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._control.fileno():
                    if not self._take():
                        return
                elif descriptor == self._ended:
                    self._reap()
                elif (child := self._children.get(descriptor)) is None:
                    continue
                elif child.code:
                    self._tell(child)
                else:
                    # Nobody waits for it any more.
                    self._poll.unregister(descriptor)
                    os.kill(child.pid, signal.SIGKILL)

    def _take(self) -> bool:
        """Begins one more load, or kills all of them if there are to be no more."""
        said, descriptors, _, _ = socket.recv_fds(self._control, 1, _MOST_DESCRIPTORS)
        if not said:
            for child in self._children.values():
                if not child.code:
                    os.kill(child.pid, signal.SIGKILL)
            return False
        if len(descriptors) < _MOST_DESCRIPTORS:  # there are too many open
            for descriptor in descriptors:
                os.close(descriptor)
            return True
        connection, graphs = socket.socket(fileno=descriptors[0]), descriptors[1]
        own = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # no more processes: the others, which load, are not to suffer from it
            connection.close()
            os.close(graphs)
            return True
        if not pid:
            self._become_child(own, connection, graphs)
        os.close(graphs)
        self._children[connection.fileno()] = _Child(pid=pid, connection=connection)
        # Whether the other end is closed comes without asking.
        self._poll.register(connection, 0)
        return True

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._ended, 4096)
        for child in list(self._children.values()):
            if child.code:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                child.code = b"\n%d" % os.waitstatus_to_exitcode(status)
                self._tell(child)

    def _tell(self, child: _Child) -> None:
        """How it ended; later, if all of its answer is unread yet and there is no room."""
        descriptor = child.connection.fileno()
        try:
            child.connection.send(child.code, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._poll.register(descriptor, select.POLLOUT)
            return
        except OSError:
            pass  # nobody waits for it
        with contextlib.suppress(KeyError):
            self._poll.unregister(descriptor)
        del self._children[descriptor]
        child.connection.close()

    def _become_child(self, parent: int, connection: socket.socket, graphs: int) -> None:
        """Does not return."""
        code = 1
        try:
            sandbox.die_with_parent(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            # An end that stays open here would hide from the other that a child has ended.
            for child in self._children.values():
                child.connection.close()
            with os.fdopen(graphs, "wb") as file:
                work(connection, file)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)


def main(descriptor: int) -> int:
    """`descriptor`: this end of the socket over which loads come. Returns the exit code."""
    # A worker of several starts with all of its supervisor's signals blocked.
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    with socket.socket(fileno=descriptor) as control:
        ForkServer(control).run()
    return 0
