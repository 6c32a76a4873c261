"""The asyncio client: the names and errors of `elman`, with `await` and `async for`.

    import elman.aio

    async with elman.aio.connect("localhost:50051") as client:
        async with client.stream("sentiment") as stream:
            async for prediction in stream.map("good"):
                print(prediction.position, prediction["positive"])

`await elman.aio.connect(...)` and `await client.stream(...)` return a client and a stream for
closing by hand. Any call may be cancelled: the prediction of a cancelled call can be read by
iterating the stream. A client belongs to the event loop of its `connect`.
"""

from elman.aio._client import Client, connect
from elman.aio._stream import Stream

__all__ = ["Client", "Stream", "connect"]
