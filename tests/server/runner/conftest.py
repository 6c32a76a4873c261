import pytest

from elman_server.runner import onnx
from elman_server.runner.bound import HostMemory
from elman_server.runner.devicestates import DeviceStates
from elman_server.runner.model import StepModel
from elman_server.runner.runtime import CPU


@pytest.fixture(params=["host", "device"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where runners have states. The device is the CPU, treated as if it were far away: what is
    there is reached by ONNX Runtime alone."""

    def far_away(model: StepModel, host: HostMemory) -> DeviceStates:
        return DeviceStates(model.spec, device=CPU, capacity=onnx._FIRST_CAPACITY)

    if request.param == "device":
        monkeypatch.setattr(onnx, "_states", far_away)
