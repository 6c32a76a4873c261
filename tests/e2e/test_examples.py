"""The examples' commands do what their pages say: with the models that come with them, and
trained a little anew."""

import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import elman
from examples.basket.shop import ITEMS, OTHERS, RECIPES, held_out
from examples.captions.__main__ import captions_of
from examples.captions.scenes import LONGEST
from examples.captions.scenes import held_out as held_out_scenes
from examples.captions.scenes import scenes as all_scenes
from tests.serverprocess import ServerProcess

ROOT = Path(__file__).parents[2]
MODELS = {name: ROOT / "examples" / name / "models" for name in ("basket", "captions")}


def run(*arguments: str, timeout: float = 110) -> str:
    """What `python -m ARGUMENTS` prints."""
    result = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def failing(*arguments: str) -> str:
    """The one line that `python -m ARGUMENTS` fails with."""
    result = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def basket() -> Iterator[ServerProcess]:
    with ServerProcess(str(MODELS["basket"])) as server:
        yield server


@pytest.fixture(scope="module")
def captions() -> Iterator[ServerProcess]:
    with ServerProcess(str(MODELS["captions"])) as server:
        yield server


# Without a server that has the model.


@pytest.mark.parametrize("command", [("basket", "fill"), ("captions", "caption")])
def test_without_a_server_it_says_in_a_line_how_to_start_one(command: tuple[str, str]) -> None:
    name, verb = command
    error = failing(f"examples.{name}", verb, "--target", "127.0.0.1:1")
    assert "no server at 127.0.0.1:1" in error
    assert error.endswith(f"; start `elman serve examples/{name}/models`\n")


def test_a_server_of_other_models_is_told_apart(captions: ServerProcess) -> None:
    error = failing("examples.basket", "fill", "--target", captions.target)
    assert "'basket'" in error
    assert error.endswith("; start `elman serve examples/basket/models`\n")


# Baskets.


def test_every_basket_begins_and_ends_and_has_an_item_once() -> None:
    for basket in held_out(200):
        assert (basket[0], basket[-1]) == (0, len(ITEMS) - 1)
        assert len(set(basket)) == len(basket)


def test_three_items_are_offered_after_each(basket: ServerProcess) -> None:
    lines = run("examples.basket", "fill", "flour", "milk", "--target", basket.target).splitlines()
    assert [line.split(" -> ")[0].strip() for line in lines if line] == [ITEMS[0], "flour", "milk"]
    last = re.findall(r"([a-z <>]+) \d+%", lines[2].split("-> ")[1])
    assert len(last) == 3
    assert last[0].strip() == "eggs"


def test_baskets_that_were_not_in_training_are_filled(basket: ServerProcess) -> None:
    output = run("examples.basket", "fill", "--baskets", "2", "--target", basket.target)
    shown = [
        [line.split(" -> ")[0].strip() for line in block.splitlines()]
        for block in output.strip().split("\n\n")
    ]
    assert shown == [[ITEMS[item] for item in items[:-1]] for items in held_out(2)]


def test_the_basket_model_is_as_good_as_its_page_says(basket: ServerProcess) -> None:
    """The page's figure of 78.5 %, through the server, on a tenth of its baskets."""
    right = total = 0
    with elman.connect(basket.target) as client:
        for items in islice(held_out(200), 200):
            predictions = client.predict("basket", items[:-1], outputs=elman.Top("next", 3))
            for prediction, item in zip(predictions, items[1:], strict=True):
                right += ITEMS[item] in {each.label for each in prediction.top(3)}
                total += 1
    assert right / total == pytest.approx(0.785, abs=0.03)


def test_the_network_knows_what_a_dish_lacks(basket: ServerProcess) -> None:
    """What comes after eggs depends on what was before them."""
    with elman.connect(basket.target) as client:
        for before, recipe in (("flour", "pancakes"), ("spaghetti", "carbonara")):
            best = client.predict("basket", [ITEMS[0], before, "eggs"])[-1].top(1)[0].label
            assert best in {*RECIPES[recipe], *OTHERS}


# Captions.


def test_no_caption_that_is_held_out_is_in_training() -> None:
    scenes = list(islice(all_scenes(np.random.default_rng(0)), 2000))
    trained = {scene.caption for scene in scenes if not scene.held_out}
    assert not trained & {scene.caption for scene in scenes if scene.held_out}
    assert all(len(scene.ids) <= 1 + LONGEST for scene in scenes)


def test_captions_are_said_for_many_pictures_at_once(captions: ServerProcess) -> None:
    output = run(
        *("examples.captions", "caption", "--target", captions.target),
        *("--pictures", "100", "--show", "2"),
    )
    assert len(output.split("\n\n")) == 3
    assert re.search(r"^  a (small|large) ", output, re.MULTILINE)
    assert "█" in output or "▒" in output
    count = re.search(r"(\d+) of 100 captions are right to the word", output)
    assert count
    assert int(count[1]) > 40


def test_a_caption_is_of_its_picture(captions: ServerProcess) -> None:
    """The same pictures in another order, and one by one: the same captions."""
    pictures = [scene.picture for scene in islice(held_out_scenes(new_captions=False), 30)]
    with elman.connect(captions.target) as client:
        together = captions_of(client, pictures)
        assert captions_of(client, pictures[::-1]) == together[::-1]
        assert [captions_of(client, [picture])[0] for picture in pictures[:5]] == together[:5]
    assert len(set(together)) > 10


# Trained again.


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MODELS)
def test_a_little_training_ends_in_a_served_model(name: str, tmp_path: Path) -> None:
    arguments = ("train", "--output", str(tmp_path), "--steps", "20")
    output = run(f"examples.{name}", *arguments, timeout=500)
    assert f"wrote {tmp_path / name / '1' / 'model.onnx'}" in output
    assert "%" in output
    with ServerProcess(str(tmp_path)) as server, elman.connect(server.target) as client:
        assert [model.name for model in client.models()] == [name]
