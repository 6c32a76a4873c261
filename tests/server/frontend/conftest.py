"""Step models that are loaded once, and servers that serve them."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from elman_server.config import ServerConfig
from elman_server.model.repository import ModelSource
from elman_server.model.spec import InputKind
from elman_server.serving.loading.loaded import LoadedModel
from tests.oracle import Oracle
from tests.server.frontend.harness import LocalServer
from tests.stepmodels import Shape, leaky, lstm, save

Serve = Callable[..., AbstractAsyncContextManager[LocalServer]]

BATCH = 16


def make_config(**values: Any) -> ServerConfig:
    defaults = {"repository": Path("unused"), "port": 0, "max_batch_size": BATCH}
    return ServerConfig(**{**defaults, **values})


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[LoadedModel]:
    """`letters` of versions 9 and 10 (text), `numbers` (tokens), `leaky` (3 features)."""
    root = tmp_path_factory.mktemp("models")
    save(*lstm(Shape(seed=9)), root / "letters/9/model.onnx")
    save(*lstm(Shape(seed=10)), root / "letters/10/model.onnx")
    model, spec = lstm(Shape(vocabulary="abcdef"))
    tokens = replace(spec.input, kind=InputKind.TOKENS, vocabulary=())
    save(model, replace(spec, input=tokens), root / "numbers/1/model.onnx")
    save(*leaky(width=3), root / "leaky/1/model.onnx")
    config = make_config()
    return [
        LoadedModel.load(
            ModelSource(name=path.parts[-3], version=path.parts[-2], path=path), config
        )
        for path in sorted(root.glob("*/*/model.onnx"))
    ]


@pytest.fixture
def serve(models: list[LoadedModel]) -> Serve:
    return lambda **config: LocalServer(models, make_config(**config))


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[LocalServer]:
    """With limits as they are by default."""
    async with serve() as running:
        yield running


@pytest.fixture(scope="session")
def oracle(models: list[LoadedModel]) -> Oracle:
    """What `letters` answers, by the runtime alone."""
    [newest] = [m for m in models if (m.source.name, m.source.version) == ("letters", "10")]
    return Oracle(newest.source.path)


@pytest.fixture(scope="session")
def logits(oracle: Oracle) -> Callable[[str], bytes]:
    """The raw output of `letters` for each character of a text, joined."""
    return lambda text: b"".join(row["next"].tobytes() for row in oracle.run(text))
