"""Pictures in, captions out: one to many. `python -m examples.captions`."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter

import click
import numpy as np

import elman
from examples.captions.scenes import END, LONGEST, START, Scene, held_out
from examples.connection import connected


@click.group()
def run() -> None:
    """Caption pictures."""


@run.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/models"),
    show_default=True,
    help="The model repository to write captions/1/model.onnx into.",
)
@click.option("--steps", default=4000, show_default=True, help="Training steps.")
@click.option("--seed", default=0, show_default=True)
def train(output: Path, steps: int, seed: int) -> None:
    """Train the network, print its accuracy, and export it."""
    from examples.captions import training  # torch is for training only

    network = training.train(steps=steps, seed=seed)
    for name, share in training.accuracy(network).items():
        click.echo(f"{name}: {share:.1%} of the captions are right to the word")
    click.echo(f"wrote {training.export(network, output / 'captions/1/model.onnx')}")


@run.command()
@click.option("--target", default="localhost:50051", show_default=True, help="The server.")
@click.option("--pictures", default=200, show_default=True, help="How many to caption.")
@click.option("--show", default=3, show_default=True, help="How many of them to print.")
@click.option(
    "--temperature", default=0.0, show_default=True, help="0 takes the most probable words."
)
@click.option("--seed", default=0, show_default=True, help="Of the pictures and of sampling.")
def caption(target: str, pictures: int, show: int, temperature: float, seed: int) -> None:
    """Caption pictures with captions outside the training set, all at once."""
    scenes = list(islice(held_out(new_captions=True, seed=seed), pictures))
    started = perf_counter()
    with connected(target, "captions") as client:
        captions = captions_of(client, [each.picture for each in scenes], temperature, seed)
    seconds = perf_counter() - started
    for scene, words in list(zip(scenes, captions, strict=True))[:show]:
        _print(scene, words)
    right = sum(words == scene.caption for scene, words in zip(scenes, captions, strict=True))
    click.echo(
        f"{right} of {len(scenes)} captions are right to the word; they took {seconds:.1f} s"
    )
    click.echo("(none of these captions, of any picture, was in training)")


def captions_of(
    client: elman.Client,
    pictures: Sequence[np.ndarray],
    temperature: float = 0.0,
    seed: int | None = None,
) -> list[str]:
    """Captions of all pictures, with a session for each picture.

    All sessions are open at once, and each generates a word in turn. A session is closed at the end
    of its caption.
    """
    captions: list[list[str]] = [[] for _ in pictures]
    streams = [client.stream("captions", context={"picture": picture}) for picture in pictures]
    saying = {
        number: stream.generate([START], length=LONGEST, temperature=temperature, seed=seed)
        for number, stream in enumerate(streams)
    }
    while saying:
        for number, words in list(saying.items()):
            word = next(words, END)
            if word == END:
                del saying[number]
                streams[number].close()
            else:
                captions[number].append(word)
    return [" ".join(words) for words in captions]


def _print(scene: Scene, words: str) -> None:
    click.echo(f"{scene}\n  {words}")
    if words != scene.caption:
        click.echo(f"  (not: {scene.caption})")
    click.echo()


if __name__ == "__main__":
    run()
