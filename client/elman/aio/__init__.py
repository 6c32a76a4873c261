"""The same client for asyncio: the names and errors of `elman`, with `await` and `async for`.

    import elman.aio

    async with elman.aio.connect("localhost:50051") as client:
        async with client.stream("sentiment") as stream:
            async for prediction in stream.map("good"):
                print(prediction.position, prediction["positive"])

`await elman.aio.connect(...)` and `await client.stream(...)` give a client and a stream to be
closed by hand. Any call may be cancelled: a prediction that was waited for is then left to whoever
iterates the stream. A client belongs to the event loop in which it was connected.
"""

from elman.aio._client import Client, connect
from elman.aio._stream import Stream

__all__ = ["Client", "Stream", "connect"]
