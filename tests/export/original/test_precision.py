"""A module in another type than float32 is compared in its own and in float32."""

from dataclasses import replace

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import elman_export
from elman_export.errors import ProofFailed
from elman_export.options import ModuleArguments, Options
from elman_export.original import precision, sequence
from elman_export.original.torchmodule import TorchModule
from elman_export.pipeline import prove_candidate
from elman_export.proof.proof import Case, answered
from elman_export.proof.trials import trials
from tests.export.refusing import behind

INPUT = elman_export.features(3)


@pytest.fixture(scope="module")
def original() -> TorchModule:
    torch.manual_seed(0)
    return sequence.original(
        behind(nn.Linear(4, 2)).bfloat16().eval(),
        ModuleArguments(input=INPUT),
        Options(outputs=[elman_export.values("y")]),
    )


@pytest.fixture(scope="module")
def cases(original: TorchModule) -> list[Case]:
    return answered(trials(INPUT, (), examples=None, seed=0), original.answer)


def test_what_is_allowed_follows_the_type(original: TorchModule, cases: list[Case]) -> None:
    candidate = original.candidate
    (found,) = prove_candidate(original, candidate, cases, Options()).differences
    assert found.tolerance is not None
    assert 1e-5 < found.maximum < 0.01 < found.tolerance < 0.1
    with pytest.raises(ProofFailed, match="differs from the module's by"):
        prove_candidate(original, candidate, cases, Options(tolerance=1e-4))


def test_what_its_type_might_hide_is_seen_in_float32(
    original: TorchModule, cases: list[Case]
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(original.candidate.model)
    weight = next(each for each in model.graph.initializer if each.name.endswith(".R"))
    values = numpy_helper.to_array(weight) * 1.002
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    off = replace(original.candidate, model=model)
    with pytest.raises(ProofFailed, match="differs from the module's float32 copy's by"):
        prove_candidate(original, off, cases, Options())
    assert prove_candidate(replace(original, outputs_of_twin=None), off, cases, Options())


def test_a_twin_is_the_module_in_float32_and_leaves_it_as_it_is() -> None:
    module = nn.Linear(2, 2).half()
    module.offset = torch.ones(2, dtype=torch.float16)
    twin = precision.twin(module)
    assert isinstance(twin.offset, torch.Tensor)
    assert (twin.weight.dtype, twin.offset.dtype) == (torch.float32, torch.float32)
    assert torch.equal(twin.get_parameter("weight"), module.weight.float())
    assert module.weight.dtype is torch.float16
