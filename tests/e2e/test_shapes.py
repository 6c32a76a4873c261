"""Every shape of recurrent network: exported from torch, served by one real server, and compared
through the SDK with the torch module and with its step model run alone.

The networks have random weights: what they compute is compared, not how well they do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import elman
import elman_export
from elman_server.model import modelfile
from tests.oracle import Oracle
from tests.serverprocess import ServerProcess

LETTERS = "abcdefghijklmnopqrstuvwxyz "
ITEMS = ("<basket>", "flour", "milk", "eggs", "<paid>")
WORDS = ("<start>", "a", "circle", "square", "above", "<end>")
FEATURES, HIDDEN = 5, 12

SESSIONS, ELEMENTS = 6, 9

pytestmark = pytest.mark.timeout(300)  # the first test waits for all of the exports


class Plain(nn.Module):
    """A recurrent body between what makes vectors of its elements and a head."""

    def __init__(self, body: nn.RNNBase, outputs: int, ids: int = 0) -> None:
        super().__init__()
        self.before = nn.Embedding(ids, body.input_size) if ids else nn.Identity()
        self.body = body
        self.head = nn.Linear(body.proj_size or body.hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.body(self.before(x))
        result: Tensor = self.head(hidden)
        return result


class LastOnly(Plain):
    """Many to one, as sentiment classifiers are trained: the head reads the last element's."""

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.body(self.before(x))
        return torch.sigmoid(self.head(hidden[:, -1]))


class Mixed(nn.Module):
    """An LSTM of two layers, a GRU and a plain RNN on top of one another, with a short cut."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, HIDDEN, num_layers=2, batch_first=True)
        self.gru = nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.rnn = nn.RNN(HIDDEN, 7, batch_first=True)
        self.head = nn.Linear(7 + HIDDEN, 3)

    def forward(self, x: Tensor) -> Tensor:
        first, _ = self.lstm(x)
        second, _ = self.gru(first)
        third, _ = self.rnn(torch.tanh(second) + first)
        result: Tensor = self.head(torch.cat([third, second], dim=-1))
        return result


class Captioner(nn.Module):
    """One to many: the picture becomes the first state."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, HIDDEN), nn.Tanh()
        )
        self.embedding = nn.Embedding(len(WORDS), 4)
        self.gru = nn.GRU(4, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, len(WORDS))

    def forward(self, x: Tensor, picture: Tensor) -> Tensor:
        first = self.encoder(picture.unsqueeze(1)).unsqueeze(0)
        hidden, _ = self.gru(self.embedding(x), first)
        result: Tensor = self.head(hidden)
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A network, and what is said of it to export it."""

    make: Callable[[], nn.Module]
    input: Any
    output: elman_export.Output
    last_only: bool = False
    """Whether the module answers for the last element only."""
    contexts: Sequence[Any] = field(default=())
    states: int
    """How many tensors its state is."""

    def elements(self, session: int) -> np.ndarray:
        """As the module takes them, `[time, *shape]`."""
        rng = np.random.default_rng(session)
        if self.input.size:
            return rng.integers(self.input.size, size=ELEMENTS)
        return rng.normal(size=(ELEMENTS, *self.input.shape)).astype(np.float32)

    def pushed(self, elements: np.ndarray) -> Any:
        """As the SDK takes them: letters, names, or numbers."""
        if self.input.kind == "text":
            return "".join(self.input.vocabulary[element] for element in elements)
        if self.input.vocabulary:
            return [self.input.vocabulary[element] for element in elements]
        return elements

    def context(self, session: int) -> Mapping[str, np.ndarray]:
        rng = np.random.default_rng(1000 + session)
        return {each.name: rng.random(each.shape, dtype=np.float32) for each in self.contexts}


def frames(body: Callable[..., nn.RNNBase], states: int, **rest: Any) -> Shape:
    """Features in time."""
    return Shape(
        make=lambda: Plain(body(FEATURES, HIDDEN, batch_first=True, **rest), 3),
        input=elman_export.features(FEATURES),
        output=elman_export.values("y"),
        states=states,
    )


SHAPES = {
    "many-to-one": Shape(
        make=lambda: LastOnly(nn.LSTM(8, HIDDEN, batch_first=True), 1, len(LETTERS)),
        input=elman_export.text(LETTERS),
        output=elman_export.values("positive"),
        last_only=True,
        states=2,
    ),
    "many-to-many": Shape(
        make=lambda: Plain(nn.GRU(8, HIDDEN, batch_first=True), len(LETTERS), len(LETTERS)),
        input=elman_export.text(LETTERS),
        output=elman_export.logits("next", labels=LETTERS),
        states=1,
    ),
    "one-to-many": Shape(
        make=Captioner,
        input=elman_export.tokens(len(WORDS), names=WORDS),
        output=elman_export.logits("next", labels=WORDS),
        contexts=(elman_export.context("picture", 6, 6),),
        states=1,
    ),
    "basket": Shape(
        make=lambda: Plain(nn.GRU(8, HIDDEN, batch_first=True), len(ITEMS), len(ITEMS)),
        input=elman_export.tokens(len(ITEMS), names=ITEMS),
        output=elman_export.logits("next", labels=ITEMS),
        states=1,
    ),
    "rnn-tanh": frames(nn.RNN, 1),
    "rnn-relu": frames(nn.RNN, 1, nonlinearity="relu"),
    "lstm": frames(nn.LSTM, 2),
    "gru": frames(nn.GRU, 1),
    "two-layers": frames(nn.LSTM, 4, num_layers=2),
    "three-layers": frames(nn.GRU, 3, num_layers=3),
    "projected": frames(nn.LSTM, 2, proj_size=6),
    "mixed": Shape(
        make=Mixed,
        input=elman_export.features(FEATURES),
        output=elman_export.values("y"),
        states=6,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    modules: Mapping[str, nn.Module]
    paths: Mapping[str, Path]
    client: elman.Client


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Every shape's module, exported, and one server for all of them."""
    root = tmp_path_factory.mktemp("models")
    modules, paths = {}, {}
    torch.manual_seed(0)
    for name, shape in SHAPES.items():
        modules[name] = shape.make().eval()
        paths[name] = elman_export.export(
            modules[name],
            root / name / "1" / "model.onnx",
            input=shape.input,
            outputs=[shape.output],
            contexts=shape.contexts,
        ).path
    with ServerProcess(str(root)) as server, elman.connect(server.target) as client:
        yield Served(modules=modules, paths=paths, client=client)


@torch.no_grad()
def expected(shape: Shape, module: nn.Module, session: int) -> np.ndarray:
    """What torch says to each element. A module that answers for the last element only is asked
    after each."""
    x = torch.from_numpy(shape.elements(session))[None]
    contexts = [torch.from_numpy(each)[None] for each in shape.context(session).values()]
    if not shape.last_only:
        return np.asarray(module(x, *contexts)[0].numpy())
    return np.stack([module(x[:, : time + 1], *contexts)[0].numpy() for time in range(ELEMENTS)])


@pytest.mark.parametrize("name", SHAPES)
def test_a_served_network_says_what_torch_says(served: Served, name: str) -> None:
    """One element at a time, in sessions that are open together."""
    shape = SHAPES[name]

    def session(number: int) -> np.ndarray:
        elements = shape.pushed(shape.elements(number))
        with served.client.stream(name, context=shape.context(number)) as stream:
            return np.stack([stream.step(element)[shape.output.name] for element in elements])

    with ThreadPoolExecutor(SESSIONS) as pool:
        found = list(pool.map(session, range(SESSIONS)))
    for number, answers in enumerate(found):
        torchs = expected(shape, served.modules[name], number)
        np.testing.assert_allclose(answers, torchs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_a_served_network_says_what_it_says_alone(served: Served, name: str) -> None:
    """Whole sequences, whose sessions share steps, to the last bit."""
    shape = SHAPES[name]
    oracle = Oracle(served.paths[name])
    streams = [
        served.client.stream(name, context=shape.context(number)) for number in range(SESSIONS)
    ]
    for number, stream in enumerate(streams):
        stream.push_many(shape.pushed(shape.elements(number)))
    for number, stream in enumerate(streams):
        stream.close()
        found = [prediction[shape.output.name] for prediction in stream]
        alone = oracle.run(shape.elements(number), shape.context(number))
        assert np.array_equal(found, [each[shape.output.name] for each in alone])


@pytest.mark.parametrize("name", SHAPES)
def test_a_network_is_served_with_all_of_its_state(served: Served, name: str) -> None:
    spec = modelfile.read(served.paths[name]).spec
    assert len(spec.states) == SHAPES[name].states
    assert spec.batched


def test_a_head_on_the_last_element_answers_at_every_one(served: Served) -> None:
    x = torch.zeros(1, ELEMENTS, dtype=torch.int64)
    assert served.modules["many-to-one"](x).shape == (1, 1)
    predictions = served.client.predict("many-to-one", "a" * ELEMENTS)
    assert predictions["positive"].shape == (ELEMENTS, 1)


def test_the_network_that_reads_the_picture_runs_once(served: Served) -> None:
    """It is no part of the step; the first state is made of the context alone."""
    spec = modelfile.read(served.paths["one-to-many"]).spec
    assert spec.initialized == ("gru.0.h",)
    assert [context.input for context in spec.contexts] == [None]


def test_items_go_by_name_or_by_id(served: Served) -> None:
    by_name = served.client.predict("basket", ["<basket>", "flour", "milk"])
    by_id = served.client.predict("basket", [0, 1, 2])
    assert np.array_equal(by_name["next"], by_id["next"])
    assert {each.label for each in by_name[-1].top(5)} == set(ITEMS)
    with pytest.raises(elman.InvalidElement, match="butter"):
        served.client.predict("basket", ["butter"])
