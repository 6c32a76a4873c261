"""Denormal numbers, and how a thread computes with them.

Numbers below 1.2e-38 (of float32) take some processors 13 to 600 times as long as others, and a
client may push nothing else. So whatever ONNX Runtime computes for the server is computed with
such numbers as zero, on every thread alike: in the probe, on the event loop, on the compute threads
and on ONNX Runtime's own.

ONNX Runtime's `session.set_denormal_as_zero` reaches the threads that it makes. It does not reach
the thread that calls it, but for the one that made the first session of a process. With one
intra-op thread all is computed on the calling thread, so that is set here, for the time of a call
alone: what else runs on the thread computes as ever.
"""

import ctypes
import platform
import sys
from types import TracebackType

_DEFAULT_ENVIRONMENT = ctypes.c_void_p(-1)
"""C's FE_DFL_ENV."""
_ENVIRONMENT_NBYTES = 32
_MXCSR = 28
"""Where an x86-64 Linux keeps the register of the vector units in its `fenv_t`."""
_FLUSH_TO_ZERO = 1 << 15
_DENORMALS_ARE_ZERO = 1 << 6


def _library() -> ctypes.CDLL | None:
    """What sets a thread's floating-point environment, where its layout is known. Elsewhere (other
    systems, and processors on which denormals cost next to nothing, as Arm's) nothing is set."""
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
    """Has the thread that enters compute with denormals as zero until it leaves."""

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
    """Leaves a thread as it is."""

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
"""Whether this machine computes with denormals as zero where it is asked to."""
as_zero: _AsZero | _AsEver = _AsEver() if _found is None else _AsZero(_found)
"""`with as_zero:` is for one call after another on any number of threads. It costs about half a
microsecond."""
