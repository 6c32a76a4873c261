"""A caller's call with waits, as a generator.

The generator yields to wait for a change of the session, and returns the result. A shell advances
the operation again after the session's `wake` is called, and closes the operation to give up.
"""

from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

from elman.errors import ElmanError

T = TypeVar("T")

Operation: TypeAlias = Generator[int, None, T]
"""Yields 0 (or False) while the server owes no answer; the caller's timeout does not count then.

Otherwise, an operation follows either of two rules. If the yielded number changes after each answer
of the server, each answer restarts the timeout. If the operation always yields True, the timeout
covers the whole operation.
"""

Failure: TypeAlias = Callable[[], ElmanError]
"""Makes the error of a failed session, as a new object for every call."""
