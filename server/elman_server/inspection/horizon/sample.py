"""Samples for measuring a horizon: elements, random or a user's own, and the replacement of an
element in each row."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman_server.model import arrayfile
from elman_server.model.arrayfile import ArrayFileError
from elman_server.model.elements import ElementCodec
from elman_server.model.spec import InputKind, InputSpec

Array = NDArray[Any]

LAGS = 256
"""The longest lag by default."""
MOST_LAGS = 4096
"""The longest allowed lag."""
ROWS = 256
"""Number of rows. In each row, a single element is replaced."""
_FEWEST_ROWS = 8
_WARM_UP = 64
"""Elements before the replaced element, so the state is no longer the initial state."""
_NUDGE = 0.1
_SAMPLE_NBYTES = 64 * 1024 * 1024
_SEED = 1990


class ExamplesError(ValueError):
    """Invalid examples. The message names the actual and the allowed values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    elements: Array
    """`[rows, warm_up + 1 + lags, *shape]`"""
    replacements: Array
    """`[rows, *shape]`: the replacement of the element at `warm_up` in each row's copy."""
    warm_up: int
    source: str
    """Origin of the elements, for people."""
    perturbation: str
    """Description of the replacements, for people."""

    @property
    def lags(self) -> int:
        """The longest lag."""
        return int(self.elements.shape[1]) - self.warm_up - 1

    def rows(self, start: int, stop: int) -> "Sample":
        """Returns the sample's rows `start` to `stop - 1`."""
        return Sample(
            elements=self.elements[start:stop],
            replacements=self.replacements[start:stop],
            warm_up=self.warm_up,
            source=self.source,
            perturbation=self.perturbation,
        )


def random_sample(spec: InputSpec, *, lags: int = LAGS, rows: int = ROWS) -> Sample:
    """Draws ids uniformly, or features from a standard normal distribution."""
    rng = np.random.default_rng(_SEED)
    time = _WARM_UP + 1 + lags
    shape = (_affordable(spec, rows, time), time, *spec.shape)
    if spec.kind is InputKind.FEATURES:
        elements = rng.standard_normal(shape, np.float32).astype(spec.dtype)
    else:
        elements = rng.integers(0, spec.size, shape).astype(spec.dtype)
    return _perturbed(spec, elements, _WARM_UP, "random input", rng)


def sample_of(
    spec: InputSpec,
    sequences: Array,
    source: str,
    *,
    lags: int | None = None,
    at_most: int = LAGS,
    rows: int = ROWS,
) -> Sample:
    """Draws windows from random places of the sequences, `[batch, time, *shape]`.

    By default, `lags` is `at_most` or, if less, four fifths of the sequences' longest lag. Raises
    `ExamplesError` if the sequences are too short, or if all elements are equal.
    """
    rng = np.random.default_rng(_SEED)
    batch, time = sequences.shape[:2]
    if lags is None:
        lags = max(1, min(at_most, (time - 1) * 4 // 5))
    if time < lags + 1:
        raise ExamplesError(
            f"{source} has sequences of {time:,} elements; lags up to {lags:,} take at least "
            f"{lags + 1:,}"
        )
    warm_up = min(_WARM_UP, time - 1 - lags)
    length = warm_up + 1 + lags
    starts = time - length + 1
    rows = _affordable(spec, rows, length)
    chosen = rng.choice(batch * starts, rows, replace=batch * starts < rows)
    elements = np.stack(
        [sequences[place // starts, (first := place % starts) : first + length] for place in chosen]
    )
    return _perturbed(spec, elements, warm_up, source, rng)


def read_examples(spec: InputSpec, path: Path) -> Array:
    """Reads a file's sequences as `[batch, time, *shape]`.

    A text model needs a UTF-8 text, which is one long sequence. Other models need a .npy file of
    ids or features, `[time, *shape]` or `[batch, time, *shape]`. Raises `ExamplesError` for invalid
    contents, and `OSError` if the file can't be read.
    """
    if spec.kind is InputKind.TEXT:
        return _read_text(spec, path)
    try:
        array = arrayfile.read(path)
    except ArrayFileError:
        raise ExamplesError(
            f"{path} is no .npy array of numbers; a model that takes {spec.kind} needs one"
        ) from None
    wanted = "integers" if spec.kind is InputKind.TOKENS else "numbers"
    if array.dtype.kind not in ("iu" if spec.kind is InputKind.TOKENS else "iuf"):
        raise ExamplesError(f"{path} holds {array.dtype}; expected are {wanted}")
    if array.ndim == 1 + len(spec.shape):
        array = array[None]
    if array.ndim != 2 + len(spec.shape) or array.shape[2:] != spec.shape or not array.size:
        shape = ", ".join(["time", *map(str, spec.shape)])
        raise ExamplesError(
            f"{path} has shape {list(array.shape)}; expected is [{shape}] or [batch, {shape}]"
        )
    return _checked(spec, array, path)


def _read_text(spec: InputSpec, path: Path) -> Array:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ExamplesError(f"{path} is no UTF-8 text; a model that takes text needs one") from None
    if not text:
        raise ExamplesError(f"{path} is empty")
    codec = ElementCodec(spec)
    decoded = codec.decode(text)
    if decoded.invalid is not None:
        index = int(decoded.invalid.argmax())
        raise ExamplesError(f"{path}, character {index}: {codec.explain(decoded, index)}")
    return decoded.elements[None]


def _checked(spec: InputSpec, array: Array, path: Path) -> Array:
    if spec.kind is InputKind.TOKENS:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= spec.size:
            raise ExamplesError(
                f"{path} holds ids from {low} to {high}; allowed are 0 to {spec.size - 1}"
            )
    with np.errstate(over="ignore"):
        elements = array.astype(spec.dtype)
    if not np.isfinite(elements).all():
        raise ExamplesError(f"{path} holds a value that is no finite {spec.dtype}")
    return elements


def _affordable(spec: InputSpec, rows: int, time: int) -> int:
    """Returns `rows`, or fewer if memory is limited, but not fewer than `_FEWEST_ROWS`."""
    fit = _SAMPLE_NBYTES // (time * prod(spec.shape) * np.dtype(spec.dtype).itemsize)
    return min(rows, max(fit, _FEWEST_ROWS))


def _perturbed(
    spec: InputSpec, elements: Array, warm_up: int, source: str, rng: np.random.Generator
) -> Sample:
    own = elements[:, warm_up]
    if spec.kind is InputKind.FEATURES:
        replacements, perturbation = _nudged(elements, own, source, rng)
    else:
        replacements, perturbation = _redrawn(spec, elements, own, source, rng)
    return Sample(
        elements=elements,
        replacements=replacements,
        warm_up=warm_up,
        source=source,
        perturbation=perturbation,
    )


def _nudged(
    elements: Array, own: Array, source: str, rng: np.random.Generator
) -> tuple[Array, str]:
    spread = elements.std(axis=(0, 1), dtype=np.float64)
    if not spread.any():
        raise ExamplesError(f"{source} has the same features everywhere")
    signs = rng.choice((-1.0, 1.0), own.shape)
    return (
        (own + _NUDGE * spread * signs).astype(own.dtype),
        f"each feature moved up or down by {_NUDGE:g} of its standard deviation in the sample",
    )


def _redrawn(
    spec: InputSpec, elements: Array, own: Array, source: str, rng: np.random.Generator
) -> tuple[Array, str]:
    """Draws a different id for each row, weighted by frequency in the sample."""
    ids, counts = np.unique(elements, return_counts=True)
    if len(ids) < 2:
        raise ExamplesError(f"{source} has the same id everywhere")
    # The sample's ids stand in a sorted line, with repetitions. A place in the line is drawn, but
    # never a place of the row's own id.
    ends = counts.cumsum()
    at = np.searchsorted(ids, own)
    drawn = (rng.random(len(own)) * (ends[-1] - counts[at])).astype(np.int64)
    drawn += np.where(drawn >= ends[at] - counts[at], counts[at], 0)
    return (
        ids[np.searchsorted(ends, drawn, side="right")].astype(own.dtype),
        "another id in its place, drawn as often as it occurs in the sample",
    )
