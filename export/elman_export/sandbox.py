"""Running an export in a child process, so that a malicious graph can only end the child.

A graph may ask for any amount of memory, or trigger a bug of a native library. In a child with a
memory limit, the request for memory fails, and the bug kills only the child. Both become a one-line
error. The sandbox is not a jail: the child has the user's permissions.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from elman_export.errors import ExportError
from elman_server.process import memory as system
from elman_server.process import sandbox

T = TypeVar("T")

_SHARE = 0.75
"""Default share of the machine's memory."""

_CHILD = "import sys; sys.path[:] = {path!r}; from elman_export.sandbox import serve; serve({out})"


def run(
    function: Callable[..., T], *arguments: Any, memory: int | None = None, **options: Any
) -> T:
    """Runs `function(*arguments, **options)` in a child process. Returns or raises the function's
    result.

    The function is found by module and name. Arguments and result are pickled. `memory` limits the
    child's memory, in bytes; the default is three quarters of the machine's memory. On systems
    without such a limit (macOS), only crashes are caught.

    Raises the function's own `ExportError` or `OSError`; `ExportError` if the child dies or asks
    for too much memory; `RuntimeError` for any other exception in the child.
    """
    memory = memory or int(_SHARE * system.limit())
    task = pickle.dumps((function, arguments, options, memory))
    read, write = os.pipe()
    path = [str(Path(each).absolute()) for each in sys.path]
    try:
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD.format(path=path, out=write)],
            stdin=subprocess.PIPE,
            # Replaces the last messages of native libraries by a single line.
            stderr=subprocess.DEVNULL,
            pass_fds=[write],
        )
    finally:
        os.close(write)
    with child, os.fdopen(read, "rb") as answers:
        try:
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # the child died; reported below
                child.stdin.write(task)
                child.stdin.close()
            answer = answers.read()
            code = child.wait()
        except BaseException:
            child.kill()
            raise
    if code or not answer:
        raise ExportError(_death(code, memory))
    kind, value = pickle.loads(answer)
    if kind == "returned":
        result: T = value
        return result
    if kind == "raised":
        raise value
    raise RuntimeError(f"a bug in the export:\n{value}")


def _death(code: int, memory: int) -> str:
    if code == -signal.SIGKILL:
        return "the export was killed, most likely for want of memory"
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return (
        f"the export's process died ({name}): the file asks for more than {memory >> 20:,} MiB of "
        "memory, or meets a bug of ONNX Runtime"
    )


def serve(out: int) -> None:
    """Runs in the child: reads a task from standard input and writes the answer to `out`."""
    # An interrupt at the terminal goes to the parent, which ends the child.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sandbox.die_with_parent()
    function, arguments, options, memory = pickle.load(sys.stdin.buffer)
    sandbox.limit_memory(memory)
    try:
        answer: tuple[str, Any] = "returned", function(*arguments, **options)
    except (ExportError, OSError) as error:
        error.__cause__ = error.__context__ = None
        answer = "raised", error
    except MemoryError:
        answer = (
            "raised",
            ExportError(f"the file asks for more than {memory >> 20:,} MiB of memory"),
        )
    except Exception:
        answer = "bug", traceback.format_exc()
    with os.fdopen(out, "wb") as answers:
        answers.write(pickle.dumps(answer))
