"""The source of a session's first state on this server: contexts, or a snapshot.

A model may take contexts: then the first state is not constant, but computed from the contexts or
equal to them. Or a session resumes from a snapshot. Either happens once, in a separate job before
the session's first step. So contexts are freed early, even if the first element comes late, and a
step does not know of contexts.
"""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from elman_server.engine.sessions.snapshot import Snapshot

Contexts = Mapping[str, NDArray[Any]]
"""Contexts of a session by name: `[*shape]`."""

InitialState = Contexts | Snapshot


def nbytes(initial_state: InitialState) -> int:
    if isinstance(initial_state, Snapshot):
        return initial_state.nbytes
    return sum(array.nbytes for array in initial_state.values())
