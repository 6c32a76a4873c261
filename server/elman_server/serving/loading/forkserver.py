"""Fork server: starts the child processes that load models.

The fork server imports the children's modules once and forks for each load. It has a single thread,
so a fork is safe, and never runs a model. For each load the server sends two descriptors: one end
of a connection for the child, and the file for the graphs. When a child ends, the fork server
appends the exit code to the child's answer. If the server closes its end first, the fork server
kills the child. When the control socket is closed, the fork server and all its children end.
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
    """Exit code of an ended child, as bytes still to be sent; empty while the child runs."""


class ForkServer:
    """Forks a child for each load, reports exit codes, and kills children no longer needed."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, _Child] = {}
        """Children by the descriptor of their connection."""
        self._poll = select.poll()
        self._ended, wake = os.pipe()
        for descriptor in (self._ended, wake):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._poll.register(control, select.POLLIN)
        self._poll.register(self._ended, select.POLLIN)

    def run(self) -> None:
        """Serves loads until the control socket is closed."""
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
                    # The server has closed its end: the answer is no longer needed.
                    self._poll.unregister(descriptor)
                    os.kill(child.pid, signal.SIGKILL)

    def _take(self) -> bool:
        """Starts a load and returns True. Kills all children and returns False if the control
        socket is closed."""
        said, descriptors, _, _ = socket.recv_fds(self._control, 1, _MOST_DESCRIPTORS)
        if not said:
            for child in self._children.values():
                if not child.code:
                    os.kill(child.pid, signal.SIGKILL)
            return False
        if len(descriptors) < _MOST_DESCRIPTORS:  # this process has too many open
            for descriptor in descriptors:
                os.close(descriptor)
            return True
        connection, graphs = socket.socket(fileno=descriptors[0]), descriptors[1]
        own = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # no more processes: this load fails, loads in progress go on
            connection.close()
            os.close(graphs)
            return True
        if not pid:
            self._become_child(own, connection, graphs)
        os.close(graphs)
        self._children[connection.fileno()] = _Child(pid=pid, connection=connection)
        # poll reports a closed other end even with an empty event mask.
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
        """Sends a child's exit code. If the socket's buffer is full, sends it once there is
        room."""
        descriptor = child.connection.fileno()
        try:
            child.connection.send(child.code, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._poll.register(descriptor, select.POLLOUT)
            return
        except OSError:
            pass  # the server has closed its end
        with contextlib.suppress(KeyError):
            self._poll.unregister(descriptor)
        del self._children[descriptor]
        child.connection.close()

    def _become_child(self, parent: int, connection: socket.socket, graphs: int) -> None:
        """Runs the load in the forked process, then exits. Does not return."""
        code = 1
        try:
            sandbox.die_with_parent(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            # A copy of another child's connection, left open here, would hide that child's end.
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
    """Runs a fork server on a control socket's descriptor. Returns the exit code."""
    # The parent may be a worker with signals blocked by its supervisor: unblock all signals.
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    with socket.socket(fileno=descriptor) as control:
        ForkServer(control).run()
    return 0
