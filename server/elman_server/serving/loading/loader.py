"""Loader: loads models in parallel, each first in a child, then in this process.

Only the child reads the file. This process opens exactly the bytes that the child ran, so later
changes of the file do not matter. The graph is opened on a separate thread, with `load_timeout` as
time-out, as for each stage in the child.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import BinaryIO

from elman_server.config import ServerConfig
from elman_server.errors import ModelLoadError
from elman_server.model.modelfile import ModelFile
from elman_server.model.repository import ModelSource
from elman_server.process import daemon, memory
from elman_server.runner.runtime import one_line
from elman_server.serving.loading import probing
from elman_server.serving.loading.children import Children, Said, shared_file
from elman_server.serving.loading.loaded import LoadedModel
from elman_server.serving.loading.messages import Answer, Request

_SHARE = 0.75
"""Share of the available memory that a load may take, unless configured otherwise."""
_WHOLE = 10
"""Time-out of a whole load, as a multiple of `load_timeout`, the time-out of a single stage."""
_PATIENCE = 5.0
"""Seconds after which a slow load no longer counts, so the next load can begin. The slow load may
be hanging."""
_IDLE = 5.0
"""Seconds for which the idle fork server stays, because another load may follow soon."""
_MOST_SLOW = 4
"""Loads in progress per core, slow loads included."""


_MOST_TOLD = 10_000
"""Characters of a load error. The runtime quotes names from the file, however long."""


class Loader:
    """Loads models through child processes. For use on a single event loop."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._turns = asyncio.Semaphore(_cores())
        self._most = asyncio.Semaphore(_MOST_SLOW * _cores())
        self._opening = asyncio.Lock()
        """Held while a graph is opened: in this process the runtime's memory has no limit, so
        graphs open one at a time."""
        self._asked = 0
        self._closed = 0
        """Number of calls of `close`."""
        self._idle: asyncio.TimerHandle | None = None

    async def load(self, source: ModelSource, config: ServerConfig) -> LoadedModel:
        """Loads and probes a model within the limits of `config`. Cancellation kills the child.

        The limits bound the child's memory and time, and the time of opening the graph here. Raises
        `ModelLoadError` with the file's name and the reason; the error's notes hold details from
        the child.
        """
        async with self._turn():
            with _refusing(source), shared_file() as graphs:
                answer = await self._ask(_request(source, config), graphs)
                async with self._opening:
                    opening = daemon.run(_open, source, config, answer, graphs)
                    try:
                        async with asyncio.timeout(config.load_timeout):
                            return await opening
                    except TimeoutError:
                        raise ModelLoadError(
                            f"{source.path}: {_too_long('opening its graph a second time', config)}"
                        ) from None

    async def read(self, source: ModelSource, config: ServerConfig) -> ModelFile:
        """Reads a model file without running the model. The result has no graphs.

        Raises `ModelLoadError` with the file's name and the reason.
        """
        async with self._turn():
            with _refusing(source), shared_file() as graphs:
                answer = await self._ask(replace(_request(source, config), run=False), graphs)
                assert answer.description is not None
                return answer.description.file(source.path)

    def close(self) -> None:
        """Kills all loads in progress. Later loads start a new fork server."""
        self._closed += 1
        self._wait_no_longer()
        self._children.close()

    def _wait_no_longer(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Waits until fewer loads run than there are cores, not counting slow loads."""
        self._asked += 1
        self._wait_no_longer()
        loop = asyncio.get_running_loop()
        try:
            async with self._most, contextlib.AsyncExitStack() as stack:
                await self._turns.acquire()
                given_back = stack.enter_context(contextlib.ExitStack())
                given_back.callback(self._turns.release)
                timer = loop.call_later(_PATIENCE, given_back.close)
                stack.callback(timer.cancel)
                yield
        finally:
            self._asked -= 1
            if not self._asked:
                self._idle = loop.call_later(_IDLE, self._children.close)

    async def _ask(self, request: Request, graphs: BinaryIO) -> Answer:
        """Returns a child's answer to a request. Raises `ModelLoadError`."""
        path, config = request.source.path, request.config
        try:
            async with asyncio.timeout(_WHOLE * config.load_timeout):
                said = await self._said(request.to_bytes(), graphs)
        except TimeoutError:
            took = f"its load took longer than {_WHOLE} times load_timeout"
            raise ModelLoadError(f"{path}: {took}, {config.load_timeout:g} s") from None
        except OSError as error:
            raise ModelLoadError(f"{path}: no process to load it in: {error}") from None
        if said.code != 0:
            raise ModelLoadError(f"{path}: {_death(said, request)}")
        try:
            answer = Answer.from_json(said.answer)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ModelLoadError(f"{path}: the process that loads it answers nonsense") from None
        if answer.error:
            refusal = ModelLoadError(answer.error[:_MOST_TOLD])
            refusal.add_note(answer.detail[:_MOST_TOLD])
            raise refusal
        return answer

    async def _said(self, request: bytes, graphs: BinaryIO) -> Said:
        """Runs a request in a child. Retries once if the fork server was lost too, since the cause
        may be another load. Raises `OSError` if no child can be started."""
        closed = self._closed
        said = await self._children.ask(request, graphs)
        if said.code is None and closed == self._closed:
            graphs.seek(0)
            graphs.truncate()
            said = await self._children.ask(request, graphs)
        return said


@contextmanager
def _refusing(source: ModelSource) -> Iterator[None]:
    """Turns any exception into `ModelLoadError`, so a bad model does not affect other models."""
    try:
        yield
    except ModelLoadError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {one_line(error)}"
        raise ModelLoadError(f"{source.path}: {said}") from error


def _open(
    source: ModelSource, config: ServerConfig, answer: Answer, graphs: BinaryIO
) -> LoadedModel:
    """Opens the graphs from the child's answer. Runs on a separate thread. Raises
    `ModelLoadError`."""
    sizes, description, probe = answer.graphs, answer.description, answer.probe
    assert sizes is not None and description is not None and probe is not None
    graphs.seek(0)
    model = graphs.read(sizes.model)
    initial = None if sizes.initial is None else graphs.read(sizes.initial)
    file = description.file(source.path, model=model, initial=initial)
    try:
        opened = probing.open_model(file, config)
    except ModelLoadError as error:
        raise ModelLoadError(f"{source.path}: {error}") from error
    return LoadedModel(source=source, file=file.without_graphs(), model=opened, probe=probe)


def _request(source: ModelSource, config: ServerConfig) -> Request:
    """Returns a child's request, without settings that only the server needs."""
    nbytes = config.max_load_bytes or int(_SHARE * memory.limit())
    return Request(
        source=source,
        config=replace(config, ticket_key=(), state_store=""),
        # A GPU's driver reserves far more than it uses.
        memory=nbytes if config.device == "cpu" or config.max_load_bytes else 0,
    )


def _death(said: Said, request: Request) -> str:
    if said.code == -signal.SIGALRM:
        return _too_long("a single step of its load", request.config)
    if said.code == -signal.SIGKILL:
        return "the process that loads it was killed, most likely for want of memory"
    if said.code is None:
        return "the process that loads it is gone"
    how = f"exit code {said.code}"
    if said.code < 0:
        names = {each.value: each.name for each in signal.Signals}
        how = names.get(-said.code, f"signal {-said.code}")
    bound = f"{request.memory >> 20:,} MiB (max_load_bytes)" if request.memory else "there is"
    return (
        f"the process that loads it died ({how}): it takes more memory than {bound}, or meets a "
        "bug of ONNX Runtime"
    )


def _too_long(what: str, config: ServerConfig) -> str:
    return f"{what} took longer than load_timeout, {config.load_timeout:g} s"


def _cores() -> int:
    """Returns the number of cores available to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
