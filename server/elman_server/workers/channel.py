"""Channel: messages over a socket between the supervisor and a worker.

When a process ends, for any reason, the socket's end of file notifies the peer.
"""

import asyncio
import contextlib
import pickle
import socket
from typing import cast

from elman_server.workers.messages import Message

_LENGTH_NBYTES = 4


class Channel:
    """An end of the socket, for sending and receiving messages."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @staticmethod
    async def of(connected: socket.socket) -> "Channel":
        """Takes over a connected Unix socket."""
        return Channel(*await asyncio.open_unix_connection(sock=connected))

    async def send(self, message: Message) -> None:
        """Sends a message. If the peer is gone, drops the message silently: `receive` reports the
        peer's end."""
        if self._writer.is_closing():  # asyncio's loop would only log the write; uvloop's raises
            return
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        with contextlib.suppress(ConnectionError):
            self._writer.write(len(data).to_bytes(_LENGTH_NBYTES) + data)
            await self._writer.drain()

    async def receive(self) -> Message | None:
        """Returns the next message, or None if the peer is gone."""
        try:
            size = int.from_bytes(await self._reader.readexactly(_LENGTH_NBYTES))
            data = await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return cast(Message, pickle.loads(data))

    async def close(self) -> None:
        """Closes the socket, after all sent data has been handed to the system."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
