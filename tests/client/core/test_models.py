"""Models as read from the server, and the lifetime of the cache."""

import pytest

import elman
from elman._core.models import KnownModel, ModelCache, model_request, read_model
from elman.v1 import inference_pb2 as pb

ANSWER = pb.GetModelResponse(
    model=pb.Model(
        name="m",
        version="3",
        input=pb.Input(kind=pb.INPUT_KIND_TEXT, size=1, vocabulary="a"),
        outputs=[
            pb.Output(
                name="y", kind=pb.OUTPUT_KIND_VALUES, data_type=pb.DATA_TYPE_FLOAT16, shape=[2]
            )
        ],
    )
)
KNOWN = KnownModel.of(ANSWER)
NEWEST = model_request("m", None)


def test_a_model_is_believed_for_its_lifetime() -> None:
    now = 100.0
    cache: ModelCache[object] = ModelCache(lifetime=30, clock=lambda: now)
    assert cache.get(NEWEST) is None
    cache.put(NEWEST, KNOWN)
    now = 129.9
    assert cache.get(NEWEST) is KNOWN
    assert cache.get(model_request("m", 3)) is None
    now = 130.0
    assert cache.get(NEWEST) is None


def test_a_forgotten_model_is_asked_for_again() -> None:
    cache: ModelCache[object] = ModelCache()
    cache.put(NEWEST, KNOWN)
    cache.put(model_request("m", 3), KNOWN)
    cache.forget("m")
    assert cache.get(NEWEST) is None
    assert cache.get(model_request("m", 3)) is None


def test_it_reads_as_one_line() -> None:
    assert str(read_model(ANSWER.model)) == (
        "m (version 3): text of 1 characters -> y: values float16[2]"
    )


@pytest.mark.parametrize("field", ["input", "kind", "data_type"])
def test_a_model_of_an_unknown_kind_is_an_error_that_says_so(field: str) -> None:
    model = pb.Model()
    model.CopyFrom(ANSWER.model)
    if field == "input":
        model.input.kind = 77  # type: ignore[assignment]
    else:
        setattr(model.outputs[0], field, 77)
    with pytest.raises(elman.ServerError, match=r"unknown .*77; a newer elman may know it"):
        read_model(model)
