"""Memory that was freed, given back to the system."""

import ctypes
import sys


def give_back() -> None:
    """The C library keeps what is freed for whoever asks next. After a model is gone that is much:
    its weights, and what the runtime made of them. Only glibc is known to do what is asked here."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
