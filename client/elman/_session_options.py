"""What a session is opened with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elman._contexts import Contexts, pack_contexts
from elman._model import Model
from elman._options import check_window
from elman._outputs import Layout, OutputChoice, resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """Checked against the session's model."""

    layout: Layout
    window: int | None = None
    """How many elements may be unanswered, if fewer than the server allows."""
    contexts: Contexts = ()


def session_options(
    model: Model,
    *,
    context: Mapping[str, Any] | None,
    outputs: OutputChoice | Sequence[OutputChoice] | None,
    window: int | None = None,
    max_message_bytes: int,
) -> SessionOptions:
    """What a caller asks for. Raises `InvalidRequest` for what does not fit the model."""
    return SessionOptions(
        layout=resolve(model, outputs),
        window=check_window(window),
        contexts=pack_contexts(model, context, max_message_bytes=max_message_bytes),
    )
