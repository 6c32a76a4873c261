"""What a refused export says, and networks that are refused or not."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import elman_export
from elman_export import ExportError, Output

Y: Sequence[Output] = (elman_export.values("y"),)


def refuse(module: nn.Module, path: Path, outputs: Sequence[Output] = Y, **options: Any) -> str:
    """The message with which `module`, which takes 3 features, is refused."""
    with pytest.raises(ExportError) as caught:
        elman_export.export(
            module, path / "m.onnx", input=elman_export.features(3), outputs=outputs, **options
        )
    assert list(path.iterdir()) == []
    return str(caught.value)


class Of(nn.Module):
    """A module with one layer, and a forward of the test's own."""

    def __init__(self, layer: nn.Module, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.layer = layer
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layer, x)


def run(layer: Any, x: Tensor) -> Tensor:
    result: Tensor = layer(x)[0]
    return result


def behind(*modules: nn.Module) -> nn.Module:
    """An LSTM of 4 with modules behind it."""
    return nn.Sequential(First(nn.LSTM(3, 4, batch_first=True)), *modules)


class First(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return run(self.layer, x)
