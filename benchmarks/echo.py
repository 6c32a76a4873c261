"""A bare gRPC echo: what messages cost before anybody does anything with them.

    python -m benchmarks.echo

serves it, on uvloop, and prints its port; `loop` is the load for it.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import uvloop

from elman.bench.peer import clock
from elman.bench.recorder import Recorder

_METHOD = "/echo.Echo/Stream"
_WARM_UP = 0.3


class Handler(grpc.GenericRpcHandler):
    """Answers each message with `size` bytes."""

    def __init__(self, size: int) -> None:
        self._answer = bytes(size)

    def service(self, details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._echo)

    async def _echo(self, messages: AsyncIterator[bytes], context: Any) -> None:
        async for _ in messages:
            await context.write(self._answer)


async def serve(size: int) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(size),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


@contextmanager
def process(size: int, **environment: str) -> Iterator[str]:
    """The server in a process of its own, with variables in addition to this one's; its address."""
    command = [sys.executable, "-m", "benchmarks.echo", str(size)]
    variables = {**os.environ, **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as server:
        assert server.stdout is not None
        try:
            yield f"127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


async def loop(target: str, *, streams: int, size: int, seconds: float) -> Recorder:
    """One message of `size` bytes in flight on each of so many connections."""
    start = clock() + _WARM_UP
    recorder = Recorder(start, start + seconds)
    await asyncio.gather(*(_one(target, size, recorder) for _ in range(streams)))
    return recorder


async def _one(target: str, size: int, recorder: Recorder) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target, options) as channel:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
        method = channel.stream_stream(_METHOD)
        call = method()
        message = bytes(size)
        while (sent := clock()) < recorder.stop:
            await call.write(message)
            await call.read()
            recorder.answered_alone(clock(), sent)
        call.cancel()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
