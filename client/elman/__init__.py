"""Stream sequences to recurrent models, and get a prediction for every element, at once.

    import elman

    with elman.connect("localhost:50051") as client:
        with client.stream("sentiment") as stream:
            for prediction in stream.map("good"):
                print(prediction.position, prediction["positive"])

`elman.aio` is the same for asyncio. Errors are a small tree under `elman.ElmanError`, drawn in
`elman.errors`.
"""

from typing import TYPE_CHECKING

from elman._client import Client, connect
from elman._model import Context, Input, InputKind, Model, Output, OutputKind
from elman._outputs import OutputChoice, Probabilities, Raw, Top
from elman._prediction import Alternative, Prediction, Predictions, TopValues
from elman._stream import Stream
from elman.errors import (
    AccessDenied,
    ClientClosed,
    DeadlineExceeded,
    ElmanError,
    InvalidElement,
    InvalidRequest,
    ModelNotFound,
    ServerError,
    ServerOverloaded,
    SessionClosed,
    SessionLost,
    Unavailable,
)

if TYPE_CHECKING:
    from elman import aio

__all__ = [
    "AccessDenied",
    "Alternative",
    "Client",
    "ClientClosed",
    "Context",
    "DeadlineExceeded",
    "ElmanError",
    "Input",
    "InputKind",
    "InvalidElement",
    "InvalidRequest",
    "Model",
    "ModelNotFound",
    "Output",
    "OutputChoice",
    "OutputKind",
    "Prediction",
    "Predictions",
    "Probabilities",
    "Raw",
    "ServerError",
    "ServerOverloaded",
    "SessionClosed",
    "SessionLost",
    "Stream",
    "Top",
    "TopValues",
    "Unavailable",
    "aio",
    "connect",
]


def __getattr__(name: str) -> object:
    """Imports `elman.aio` when it is first used."""
    if name == "aio":
        import elman.aio

        return elman.aio
    raise AttributeError(f"module 'elman' has no attribute {name!r}")
