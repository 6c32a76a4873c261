"""Stream sequences to recurrent models and get a prediction for every element at once.

    import elman

    with elman.connect("localhost:50051") as client:
        with client.stream("sentiment") as stream:
            for prediction in stream.map("good"):
                print(prediction.position, prediction["positive"])

`elman.aio` is the client for asyncio. Errors form a small tree under `elman.ElmanError`;
`elman.errors` shows the tree.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elman import aio
    from elman._threads.client import Client, connect
    from elman._threads.stream import Stream
    from elman._wire.model import Context, Input, InputKind, Model, Output, OutputKind
    from elman._wire.outputs import OutputChoice, Probabilities, Raw, Top
    from elman._wire.prediction import Alternative, Prediction, Predictions, TopValues
    from elman.errors import (
        AccessDenied,
        ClientClosed,
        ClientUnusable,
        DeadlineExceeded,
        ElmanError,
        InvalidElement,
        InvalidRequest,
        ModelNotFound,
        ServerError,
        ServerOverloaded,
        SessionClosed,
        SessionLost,
        SessionTaken,
        Unavailable,
    )

_MODULES = {
    "_threads.client": ("Client", "connect"),
    "_wire.model": ("Context", "Input", "InputKind", "Model", "Output", "OutputKind"),
    "_wire.outputs": ("OutputChoice", "Probabilities", "Raw", "Top"),
    "_wire.prediction": ("Alternative", "Prediction", "Predictions", "TopValues"),
    "_threads.stream": ("Stream",),
    "errors": (
        "AccessDenied",
        "ClientClosed",
        "ClientUnusable",
        "DeadlineExceeded",
        "ElmanError",
        "InvalidElement",
        "InvalidRequest",
        "ModelNotFound",
        "ServerError",
        "ServerOverloaded",
        "SessionClosed",
        "SessionLost",
        "SessionTaken",
        "Unavailable",
    ),
}
_SUBMODULES = {"_core", "_process", "_threads", "_wire", "aio", "errors", "v1"}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AccessDenied",
    "Alternative",
    "Client",
    "ClientClosed",
    "ClientUnusable",
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
    "SessionTaken",
    "Stream",
    "Top",
    "TopValues",
    "Unavailable",
    "aio",
    "connect",
]


def __getattr__(name: str) -> object:
    """Imports the module of a public name at the first use of the name.

    Programs without a client, such as the server, then load no gRPC before choosing gRPC's
    settings.
    """
    if name in _SUBMODULES:
        return import_module(f"elman.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'elman' has no attribute {name!r}")
    value: object = getattr(import_module(f"elman.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
