"""A bridge: a TCP proxy that does to connections what networks do."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: a close sends RST, and nothing of what is buffered."""


class Bridge:
    """Listens on 127.0.0.1 and connects to a server, for the event loop that enters it."""

    def __init__(self, port: int) -> None:
        self.port = port
        """The server's; may be changed for connections to come."""
        self.delay = 0.0
        """Seconds that each piece of data takes longer, in both directions."""
        self.refuses = False
        """Whether connections are reset as soon as they are made."""
        self.mute = False
        """Whether connections are taken, and nothing is ever said on them."""
        self.accepted = 0
        self._cut_after: int | None = None
        self._wires: set[_Wire] = set()
        self._held: list[Callable[[], None]] | None = None
        self._mute: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "Bridge":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.target = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._mute:
            _reset(writer)
        while self._wires:
            wire = next(iter(self._wires))
            wire.cut()
            await wire.ended()

    @property
    def open(self) -> int:
        return len(self._wires)

    def cut(self) -> None:
        """Resets all connections."""
        for wire in list(self._wires):
            wire.cut()

    def stall(self) -> None:
        """From now on nothing comes through the connections that there are, and they stay open: as
        when a machine is gone without a word."""
        for wire in self._wires:
            wire.stalled = True

    def cut_after(self, nbytes: int) -> None:
        """Resets the connection that brings the server the last of so many bytes, right there."""
        self._cut_after = nbytes

    def hold(self, count: int) -> None:
        """The next connections wait until there are so many, and come through in reverse."""
        held: list[Callable[[], None]] = []
        self._held = held
        self._hold_until = count

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refuses:
            _reset(writer)
            return
        if self.mute:
            self._mute.append(writer)
            return
        if self._held is not None:
            turn = asyncio.Event()
            self._held.append(turn.set)
            if len(self._held) == self._hold_until:
                for release in reversed(self._held):
                    release()
                    await asyncio.sleep(0)
                self._held = None
            await turn.wait()
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            _reset(writer)
            return
        wire = _Wire(self, reader, writer, far_reader, far_writer)
        self._wires.add(wire)
        try:
            await wire.run()
        finally:
            self._wires.discard(wire)

    def take(self, nbytes: int) -> int | None:
        """How many of so many bytes may still go to the server; None for all."""
        if self._cut_after is None:
            return None
        if nbytes < self._cut_after:
            self._cut_after -= nbytes
            return None
        left, self._cut_after = self._cut_after, None
        return left


class _Wire:
    """One connection."""

    def __init__(
        self,
        bridge: Bridge,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        self._bridge = bridge
        self._near = reader, writer
        self._far = far_reader, far_writer
        self._ended = asyncio.Event()
        self.stalled = False

    async def run(self) -> None:
        pumps = [
            asyncio.create_task(self._pump(self._near[0], self._far[1], outward=True)),
            asyncio.create_task(self._pump(self._far[0], self._near[1], outward=False)),
        ]
        self._pumps = pumps
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        self.cut()
        await asyncio.wait(pumps)
        self._ended.set()

    def cut(self) -> None:
        for _, writer in (self._near, self._far):
            _reset(writer)
        for pump in getattr(self, "_pumps", ()):
            pump.cancel()

    async def ended(self) -> None:
        await self._ended.wait()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, outward: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if self._bridge.delay:
                    await asyncio.sleep(self._bridge.delay)
                if self.stalled:
                    break
                left = self._bridge.take(len(data)) if outward else None
                writer.write(data if left is None else data[:left])
                await writer.drain()
                if left is not None:
                    return
        if self.stalled:
            await asyncio.Event().wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    connected = writer.get_extra_info("socket")
    if connected is not None:
        with contextlib.suppress(OSError):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
