"""However many names its ids have, a model can be listed and described."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from elman.v1 import inference_pb2 as pb
from elman_server.model.repository import ModelSource
from elman_server.serving.loading.loaded import LoadedModel
from tests.server.frontend.conftest import make_config
from tests.server.frontend.harness import LocalServer
from tests.stepmodels import Shape, leaky, lstm, named_tokens, save

COUNT = 2000
LIMIT = 16 * 1024
NAMES = [f"token {number}" for number in range(COUNT)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[LoadedModel]:
    root = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        save(*named_tokens(COUNT), root / f"words/{version}/model.onnx")
    save(*named_tokens(100), root / "few/1/model.onnx")
    save(*lstm(Shape()), root / "letters/1/model.onnx")
    save(*leaky(), root / "leaky/1/model.onnx")
    return [
        LoadedModel.load(
            ModelSource(name=path.parts[-3], version=path.parts[-2], path=path), make_config()
        )
        for path in sorted(root.glob("*/*/model.onnx"))
    ]


def serve(models: list[LoadedModel], limit: int) -> LocalServer:
    return LocalServer(models, make_config(max_message_bytes=limit))


async def names(server: LocalServer, output: str, start: int = 0) -> list[str]:
    found: list[str] = []
    total = start + 1
    while start + len(found) < total:
        answer = await server.stub.ListLabels(
            pb.ListLabelsRequest(model="words", output=output, start=start + len(found))
        )
        assert answer.labels and answer.ByteSize() <= LIMIT
        found += answer.labels
        total = answer.total
    return found


async def test_where_all_names_fit_all_are_told(models: list[LoadedModel]) -> None:
    async with serve(models, 2**22) as server:
        answer = await server.stub.ListModels(pb.ListModelsRequest())
        words = [model for model in answer.models if model.name == "words"]
        assert [list(model.outputs[0].labels) for model in words] == [NAMES, NAMES]
        assert not any(model.input.vocabulary_omitted for model in answer.models)


async def test_the_longest_lists_are_left_out_where_they_do_not_fit(
    models: list[LoadedModel],
) -> None:
    async with serve(models, LIMIT) as server:
        answer = await server.stub.ListModels(pb.ListModelsRequest())
        found = {(model.name, model.version): model for model in answer.models}
        for version in "12":
            words = found["words", version]
            assert words.input.vocabulary_omitted and words.outputs[0].labels_omitted
            assert not words.input.vocabulary and not words.outputs[0].labels
            assert (words.input.size, list(words.outputs[0].shape)) == (COUNT, [COUNT])
        assert found["few", "1"].input.vocabulary[99] == "token 99"
        assert len(found["letters", "1"].input.vocabulary) == 29
        one = await server.stub.GetModel(pb.GetModelRequest(name="words"))
        assert one.model == found["words", "2"]


async def test_what_was_left_out_is_told_in_pieces(models: list[LoadedModel]) -> None:
    async with serve(models, LIMIT) as server:
        assert await names(server, "") == NAMES
        assert await names(server, "next") == NAMES
        assert await names(server, "next", 1990) == NAMES[1990:]
        past = await server.stub.ListLabels(pb.ListLabelsRequest(model="words", start=COUNT))
        assert (list(past.labels), past.total) == ([], COUNT)
        none = await server.stub.ListLabels(pb.ListLabelsRequest(model="leaky", output="y"))
        assert (list(none.labels), none.total) == ([], 0)


@pytest.mark.parametrize(
    ("request_", "code", "details"),
    [
        (pb.ListLabelsRequest(model="none"), grpc.StatusCode.NOT_FOUND, "model 'none' is unknown"),
        (
            pb.ListLabelsRequest(model="words", output="none"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "output 'none' is unknown; the model has next",
        ),
        (
            pb.ListLabelsRequest(model="words", start=COUNT + 1),
            grpc.StatusCode.INVALID_ARGUMENT,
            f"start is {COUNT + 1}; there are {COUNT} labels",
        ),
    ],
)
async def test_labels_that_there_are_not_are_refused(
    models: list[LoadedModel],
    request_: pb.ListLabelsRequest,
    code: grpc.StatusCode,
    details: str,
) -> None:
    async with serve(models, LIMIT) as server:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server.stub.ListLabels(request_)
        assert refused.value.code() is code
        assert (refused.value.details() or "").startswith(details)


async def test_more_models_than_fit_are_no_overload(
    models: list[LoadedModel], tmp_path: Path
) -> None:
    def many() -> Iterator[LoadedModel]:
        path = save(*leaky(), tmp_path / "model.onnx")
        for number in range(60):
            yield LoadedModel.load(
                ModelSource(name=f"m{number}", version="1", path=path), make_config()
            )

    async with serve(list(many()), 4096) as server:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server.stub.ListModels(pb.ListModelsRequest())
        assert "with max_message_bytes 4096, allowed are" in (refused.value.details() or "")
        assert "grpc-retry-pushback-ms" not in dict(refused.value.trailing_metadata() or ())
        await server.stub.GetModel(pb.GetModelRequest(name="m59"))
