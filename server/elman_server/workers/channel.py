"""Messages over a socket between the supervisor and a worker. Its end is how each learns that the
other is gone, however it went."""

import asyncio
import contextlib
import pickle
import socket
from typing import cast

from elman_server.workers.messages import Message

_LENGTH_NBYTES = 4


class Channel:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @staticmethod
    async def of(connected: socket.socket) -> "Channel":
        """Takes over a connected Unix socket."""
        return Channel(*await asyncio.open_unix_connection(sock=connected))

    async def send(self, message: Message) -> None:
        """What is sent to one who is gone is lost without a word: its end is told by `receive`."""
        if self._writer.is_closing():  # where asyncio's loop would only log it, uvloop's raises
            return
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        with contextlib.suppress(ConnectionError):
            self._writer.write(len(data).to_bytes(_LENGTH_NBYTES) + data)
            await self._writer.drain()

    async def receive(self) -> Message | None:
        """The next message, or None if the other side is gone."""
        try:
            size = int.from_bytes(await self._reader.readexactly(_LENGTH_NBYTES))
            data = await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return cast(Message, pickle.loads(data))

    async def close(self) -> None:
        """Returns when what was sent has been handed to the system."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
