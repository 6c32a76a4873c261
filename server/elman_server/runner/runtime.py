"""ONNX Runtime as the runner uses it: sessions, devices, device memory."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman_server.engine.jobs.interrupt import Interrupt
from elman_server.errors import ModelLoadError
from elman_server.runner import graphfile
from elman_server.runner.denormals import FLUSHED, as_zero
from elman_server.runner.ort import onnxruntime as ort

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"

_AS_REQUESTED = 1
"""Makes an arena grow by the requested size, not to the next power of two."""
_arena_lock = threading.Lock()
_arena_made = False

_CUDA_OPTIONS = {
    # Full float32 as on a CPU, not shortened to ten bits of mantissa.
    "use_tf32": "0",
    # The other values choose an algorithm for each shape by its measured speed, so results could
    # vary.
    "cudnn_conv_algo_search": "DEFAULT",
}


class DeviceUnavailable(Exception):
    """A device can't be used. The message says why, and what helps."""


@dataclass(frozen=True, slots=True)
class Device:
    """Device that computes steps and keeps sessions' states."""

    kind: str = "cpu"
    id: int = 0

    @staticmethod
    def parse(text: str) -> "Device":
        """Parses `cpu`, `cuda` or `cuda:1`."""
        kind, _, number = text.partition(":")
        return Device(kind, int(number or 0))

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.id}"

    def require(self) -> None:
        """Raises `DeviceUnavailable` unless a test run on the device succeeds."""
        if self == CPU:
            return
        if CUDA_PROVIDER not in ort.get_available_providers():
            raise DeviceUnavailable(
                f"this ONNX Runtime has no {CUDA_PROVIDER}: in place of onnxruntime, install "
                "onnxruntime-gpu, that is, pip install 'elman[server-gpu]'"
            )
        if hasattr(ort, "preload_dlls"):  # from 1.21 on
            # Libraries of packages such as nvidia-cudnn, which the loader would not look for.
            ort.preload_dlls()
        try:
            session = open_session(graphfile.identity(), device=self)
            session.run(["y"], {"x": np.zeros(1, np.float32)})
            Block(self, np.zeros(1, np.float32))
        except Exception as error:  # onnxruntime raises classes of many modules
            raise DeviceUnavailable(f"no GPU answers as {self}: {one_line(error)}") from error


CPU = Device()


class Block:
    """A copy of an array in device memory."""

    def __init__(self, device: Device, array: NDArray[Any]) -> None:
        self._value = ort.OrtValue.ortvalue_from_numpy(array, device.kind, device.id)
        self.nbytes = array.nbytes
        self.address: int = self._value.data_ptr()

    def read(self) -> NDArray[Any]:
        """Returns a copy of the block in host memory."""
        array: NDArray[Any] = self._value.numpy()
        return array


def open_session(
    model: bytes,
    *,
    device: Device = CPU,
    threads: int = 1,
    providers: Sequence[str] = (CPU_PROVIDER,),
    max_run_nbytes: int | None = None,
) -> ort.InferenceSession:
    """Opens a graph for running. `providers` are for the CPU. The graph is loaded from memory, so
    that the runtime has no folder to look for weights in. `max_run_nbytes`: limit of host bytes for
    the runs of all graphs with a limit. The first limit given in a process counts.

    Raises `ModelLoadError` if the runtime refuses the graph.
    """
    chosen: list[Any] = list(providers)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # A spinning worker thread would take a core from the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if FLUSHED:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if max_run_nbytes is not None:
        _bound_memory(max_run_nbytes)
        options.add_session_config_entry("session.use_env_allocators", "1")
        # Weights are allocated outside of the arena and do not count.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if device != CPU:
        options.use_deterministic_compute = True
        chosen = [(CUDA_PROVIDER, {"device_id": str(device.id), **_CUDA_OPTIONS}), CPU_PROVIDER]
    wanted = [each if isinstance(each, str) else each[0] for each in chosen]
    available = ort.get_available_providers()
    missing = [name for name in wanted if name not in available]
    if missing:
        raise ModelLoadError(
            f"provider {missing[0]!r} is not available; this ONNX Runtime has "
            f"{', '.join(available)}"
        )
    try:
        with as_zero:
            session = ort.InferenceSession(model, options, providers=chosen, enable_fallback=0)
    except Exception as error:  # onnxruntime raises classes of many modules
        raise ModelLoadError(one_line(error)) from error
    if device != CPU and CUDA_PROVIDER not in session.get_providers():
        raise ModelLoadError(
            f"{CUDA_PROVIDER} could not be started; ONNX Runtime's own lines say why"
        )
    return session


def _bound_memory(max_nbytes: int) -> None:
    """Creates the process's arena of at most `max_nbytes`, for graphs that ask for an arena. Later
    calls have no effect."""
    global _arena_made
    with _arena_lock:
        if _arena_made:
            return
        _arena_made = True
    host = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    default = -1
    arena = ort.OrtArenaCfg(max_nbytes, _AS_REQUESTED, default, default)
    ort.create_and_register_allocator(host, arena)


def run_options(interrupt: Interrupt | None) -> ort.RunOptions | None:
    """Returns options for an interruptible run; `None` without an interrupt. ONNX Runtime checks
    for the interrupt between two nodes of a graph, also inside a Loop, but not within a node."""
    if interrupt is None:
        return None
    options = ort.RunOptions()
    # This is the default. Without an explicit value, ONNX Runtime's Python binding throws a C++
    # exception at each run, which costs more than a small step.
    options.add_run_config_entry("gpu_graph_id", "0")
    interrupt.arm(partial(setattr, options, "terminate", True))
    return options


def one_line(error: Exception) -> str:
    """Joins a message of several lines, such as the runtime's, into one line."""
    return " ".join(str(error).split())
