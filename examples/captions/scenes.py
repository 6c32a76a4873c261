"""Small grey pictures of one or two figures, with captions. Independent of the network."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

SIZE = 12
"""Pixels on a side."""
START, END = "<start>", "<end>"
LONGEST = 9
"""Words in the longest caption, with `END`."""

_FIGURES = {
    "square": {"small": "###/###/###", "large": "#####/#####/#####/#####/#####"},
    "circle": {"small": ".#./###/.#.", "large": ".###./#####/#####/#####/.###."},
    "triangle": {"small": "#../##./###", "large": "#..../##.../###../####./#####"},
    "cross": {"small": "#.#/.#./#.#", "large": "#...#/.#.#./..#../.#.#./#...#"},
}
_SHADES = {"pale": 0.5, "bright": 1.0}
_NOISE = 0.05
_HELD_OUT_SEED = 1_000_000
_HALF = SIZE // 2
_RELATIONS = ("above", "left of")

WORDS = (
    *(START, END, "a", "small", "large", *_SHADES, *_FIGURES),
    *("at", "the", "top", "bottom", "left", "right", "above", "of"),
)
"""The captions' words by id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    size: str
    shade: str
    kind: str

    @property
    def pixels(self) -> np.ndarray:
        """`[3, 3]` or `[5, 5]`."""
        rows = _FIGURES[self.kind][self.size].split("/")
        return np.array([[each == "#" for each in row] for row in rows]) * _SHADES[self.shade]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    picture: np.ndarray
    """float32 `[SIZE, SIZE]`, 0 black to 1 white, with some noise."""
    caption: str

    @property
    def held_out(self) -> bool:
        """Whether the caption is outside the training set: one caption in eight."""
        return zlib.crc32(self.caption.encode()) % 8 == 0

    @property
    def ids(self) -> list[int]:
        """`START`, the caption's words, `END`."""
        return [WORDS.index(word) for word in (START, *self.caption.split(), END)]

    def __str__(self) -> str:
        """The picture as text, two characters a pixel."""
        lines = [
            "".join("  ··░░▒▒██"[2 * round(4 * value) :][:2] for value in row.clip(0, 1))
            for row in self.picture
        ]
        return "\n".join(lines)


def scenes(rng: np.random.Generator) -> Iterator[Scene]:
    """Endless scenes. Two in three have two figures, each in its half of the picture."""
    while True:
        picture = rng.normal(0, _NOISE, (SIZE, SIZE))
        if rng.random() < 1 / 3:
            figure = _figure(rng)
            across, down = rng.integers(2, size=2)
            _draw(picture[down * _HALF :][:_HALF, across * _HALF :][:, :_HALF], figure, rng)
            place = f"{('top', 'bottom')[down]} {('left', 'right')[across]}"
            caption = f"a {figure.size} {figure.shade} {figure.kind} at the {place}"
        else:
            first, second = _figure(rng), _figure(rng)
            relation = str(rng.choice(_RELATIONS))
            halves = picture if relation == "above" else picture.T
            for half, figure in ((halves[:_HALF], first), (halves[_HALF:], second)):
                _draw(half if relation == "above" else half.T, figure, rng)
            caption = f"a {first.size} {first.kind} {relation} a {second.size} {second.kind}"
        yield Scene(picture=picture.astype(np.float32), caption=caption)


def held_out(*, new_captions: bool, seed: int = 0) -> Iterator[Scene]:
    """Endless scenes outside the training set, with captions from the set or with new captions."""
    rng = np.random.default_rng(_HELD_OUT_SEED + seed)
    return (scene for scene in scenes(rng) if scene.held_out == new_captions)


def _figure(rng: np.random.Generator) -> Figure:
    return Figure(
        size=str(rng.choice(["small", "large"])),
        shade=str(rng.choice([*_SHADES])),
        kind=str(rng.choice([*_FIGURES])),
    )


def _draw(area: np.ndarray, figure: Figure, rng: np.random.Generator) -> None:
    """Adds the figure at a random place of the area."""
    pixels = figure.pixels
    down, across = (rng.integers(room - len(pixels) + 1) for room in area.shape)
    area[down:, across:][: len(pixels), : len(pixels)] += pixels
