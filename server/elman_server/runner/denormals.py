"""Denormal numbers, and how a thread computes with them.

Numbers below 1.2e-38 (in float32) take some processors 13 to 600 times as long as normal numbers,
and a client may push only denormals. So ONNX Runtime treats denormals as zero in all computation
for the server, on every thread: in the probe, on the event loop, on the compute threads and on ONNX
Runtime's own threads.

ONNX Runtime's `session.set_denormal_as_zero` sets the threads created by ONNX Runtime. The option
does not set the calling thread, except for the thread that made the first session of a process.
With one intra-op thread the calling thread does all computation. So this module sets the calling
thread for the time of a call. Other code on the thread computes as before.
"""

import ctypes
import platform
import sys
from types import TracebackType

_DEFAULT_ENVIRONMENT = ctypes.c_void_p(-1)
"""FE_DFL_ENV of C."""
_ENVIRONMENT_NBYTES = 32
_MXCSR = 28
"""Offset of the vector units' control register in `fenv_t` on x86-64 Linux."""
_FLUSH_TO_ZERO = 1 << 15
_DENORMALS_ARE_ZERO = 1 << 6


def _library() -> ctypes.CDLL | None:
    """Returns the library that sets a thread's floating-point environment, or `None` where the
    layout of the environment is not known. `None` on other systems, and on processors with cheap
    denormals such as Arm's."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "fesetenv"):
        try:
            library = ctypes.CDLL("libm.so.6")
        except OSError:
            return None
    library.fegetenv.argtypes = library.fesetenv.argtypes = [ctypes.c_void_p]
    return library


class _AsZero:
    """Context manager: the entering thread treats denormals as zero until it leaves."""

    __slots__ = ("_address", "_environment", "_set")

    def __init__(self, library: ctypes.CDLL) -> None:
        self._set = library.fesetenv
        self._environment = ctypes.create_string_buffer(_ENVIRONMENT_NBYTES)
        before = ctypes.create_string_buffer(_ENVIRONMENT_NBYTES)
        library.fegetenv(before)
        self._set(_DEFAULT_ENVIRONMENT)
        library.fegetenv(self._environment)
        self._set(before)
        mxcsr = ctypes.c_uint32.from_buffer(self._environment, _MXCSR)
        mxcsr.value |= _FLUSH_TO_ZERO | _DENORMALS_ARE_ZERO
        self._address = ctypes.c_void_p(ctypes.addressof(self._environment))

    def __enter__(self) -> None:
        self._set(self._address)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._set(_DEFAULT_ENVIRONMENT)


class _AsEver:
    """Context manager without effect."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


_found = _library()
FLUSHED = _found is not None
"""Whether this machine can treat denormals as zero."""
as_zero: _AsZero | _AsEver = _AsEver() if _found is None else _AsZero(_found)
"""`with as_zero:` around a call. Reusable, from any number of threads. Costs about half a
microsecond."""
