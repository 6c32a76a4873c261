"""Child process that loads a single model. The load may crash the process.

The child first limits its own memory, and the time of each stage of the load. The operating system
ends the child when a limit is exceeded, even inside native code.
"""

import os
import signal
import socket
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from elman_server.errors import ModelLoadError
from elman_server.model import modelfile
from elman_server.model.modelfile import ModelFile, ModelFileError
from elman_server.process import sandbox
from elman_server.serving.loading.children import LENGTH_NBYTES
from elman_server.serving.loading.loaded import LoadedModel
from elman_server.serving.loading.messages import Answer, Description, Graphs, Request

_TOO_MUCH = "takes more memory than a load may (max_load_bytes)"


def work(connection: socket.socket, graphs: BinaryIO) -> None:
    """Answers a single request. Writes the model's graphs into `graphs` for the server."""
    _silence()
    with connection.makefile("rb") as requests:
        size = int.from_bytes(requests.read(LENGTH_NBYTES))
        request = Request.from_bytes(requests.read(size))
    _limit(request)
    connection.sendall(_answer(request, graphs, _clock(request.config.load_timeout)).to_json())


def _silence() -> None:
    """Discards the output of native libraries; the server reports crashes in fewer words."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)


def _limit(request: Request) -> None:
    sandbox.go_first()
    if request.memory:
        sandbox.limit_memory(request.memory)


def _clock(seconds: float) -> Callable[[], None]:
    """Starts a timer and returns a function to restart it. SIGALRM ends the process after
    `seconds` without a restart."""

    def start() -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    start()
    return start


def _answer(request: Request, graphs: BinaryIO, start: Callable[[], None]) -> Answer:
    source, config = request.source, request.config
    try:
        if not request.run:
            file = modelfile.read(source.path, max_bytes=config.max_model_bytes)
            return Answer(description=Description.of(file))
        loaded = LoadedModel.load(source, config, before_run=start)
        start()
        return Answer(
            description=Description.of(loaded.file),
            graphs=_keep(loaded.file, graphs),
            probe=loaded.probe,
        )
    except ModelFileError as error:
        return Answer(error=str(error))
    except ModelLoadError as error:
        return Answer(error=str(error), detail=_trace(error))
    except MemoryError:
        return Answer(error=f"{source.path}: {_TOO_MUCH}")
    except Exception as error:  # a file crafted to hit a bug must not end in a traceback
        said = " ".join(f"{type(error).__name__}: {error}".split())[:1000]
        return Answer(error=f"{source.path}: {said}", detail=_trace(error))


def _trace(error: Exception) -> str:
    with suppress(Exception):
        return "".join(traceback.format_exception(error))
    return ""


def _keep(file: ModelFile, graphs: BinaryIO) -> Graphs:
    graphs.write(file.model)
    graphs.write(file.initial or b"")
    graphs.flush()
    return Graphs(
        model=len(file.model), initial=None if file.initial is None else len(file.initial)
    )
