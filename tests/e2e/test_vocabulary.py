"""A model whose names fit into no message is used like any other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import elman
import elman.aio
from elman.errors import InvalidRequest
from tests.serverprocess import ServerProcess
from tests.stepmodels import leaky, named_tokens, save

COUNT = 256_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root: Path = tmp_path_factory.mktemp("models")
    save(*named_tokens(COUNT), root / "words/1/model.onnx")
    save(*named_tokens(COUNT), root / "words/2/model.onnx")
    save(*leaky(), root / "leaky/1/model.onnx")
    with ServerProcess(str(root), "--max-batch-size", "2") as running:
        yield running


def complete(model: elman.Model) -> bool:
    [output] = model.outputs
    return list(output.labels or ()) == [f"token {number}" for number in range(COUNT)]


def test_a_vocabulary_larger_than_a_message_is_listed_and_served(server: ServerProcess) -> None:
    with elman.connect(server.target) as client:
        found = {(model.name, str(model.version)): model for model in client.models()}
        assert complete(found["words", "1"]) and complete(found["words", "2"])
        assert not found["leaky", "1"].outputs[0].labels
        with client.stream("words", outputs=elman.Top("next", k=2)) as stream:
            first, _ = stream.step(COUNT - 1).top(2)
        assert str(first.label).startswith("token ")


async def test_the_asyncio_client_reads_it_as_well(server: ServerProcess) -> None:
    async with elman.aio.connect(server.target) as client:
        assert complete(await client.model("words"))
        assert len(await client.models()) == 3


def test_a_message_that_is_too_large_is_no_overload(server: ServerProcess) -> None:
    with (
        elman.connect(server.target, max_message_bytes=4096) as client,
        pytest.raises(InvalidRequest, match="max_message_bytes"),
    ):
        client.model("x" * 10_000)
