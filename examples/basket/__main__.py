"""A shop's baskets: items in, the next item out. `python -m examples.basket`."""

from pathlib import Path

import click

import elman
from examples.basket.shop import ITEMS, held_out
from examples.connection import connected


@click.group()
def run() -> None:
    """Predict the next item of a basket."""


@run.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/models"),
    show_default=True,
    help="The model repository to write basket/1/model.onnx into.",
)
@click.option("--steps", default=1000, show_default=True, help="Training steps.")
@click.option("--seed", default=0, show_default=True)
def train(output: Path, steps: int, seed: int) -> None:
    """Train the network, print its accuracy, and export it."""
    from examples.basket import training  # torch is for training only

    network = training.train(steps=steps, seed=seed)
    found = training.figures(network)
    click.echo("the next item is        network   most frequent")
    for k, name in ((1, "the first of the list"), (3, "one of the first 3")):
        click.echo(f"{name:22} {found.network[k]:8.1%} {found.frequent[k]:15.1%}")
    click.echo(f"wrote {training.export(network, output / 'basket/1/model.onnx')}")


@run.command()
@click.argument("items", nargs=-1, type=click.Choice(ITEMS[1:-1]), metavar="[ITEM]...")
@click.option("--target", default="localhost:50051", show_default=True, help="The server.")
@click.option("--baskets", default=3, show_default=True, help="How many to fill without ITEMs.")
def fill(items: tuple[str, ...], target: str, baskets: int) -> None:
    """Put ITEMs into a basket, or fill baskets from outside the training set.

    Prints the three most probable next items after each item.
    """
    rows = [[ITEMS[0], *items]] if items else _held_out(baskets)
    with connected(target, "basket") as client:
        for row in rows:
            with client.stream("basket", outputs=elman.Top("next", 3)) as stream:
                for item in row:
                    following = stream.step(item).top(3)
                    guesses = ", ".join(
                        f"{each.label} {each.probability:.0%}" for each in following
                    )
                    click.echo(f"{item:15} -> {guesses}")
            click.echo()


def _held_out(count: int) -> list[list[str]]:
    """Each basket without its last item: no item follows `<paid>`."""
    return [[ITEMS[item] for item in basket[:-1]] for basket in held_out(count)]


if __name__ == "__main__":
    run()
