"""Checks arrays of numbers and packs them for the wire."""

from typing import Any

import numpy as np

from elman.errors import InvalidRequest


def pack(
    value: Any,
    dtype: np.dtype,
    shape: tuple[int | None, ...],
    *,
    noun: str,
    name: str,
    model: str,
    error: type[InvalidRequest],
) -> bytes:
    """Returns the numbers of `value` as raw little-endian bytes. `value` is any value numpy
    converts to an array.

    `shape` may begin with None: any number of rows. Raises `error` for an array of another shape,
    and for a number outside `dtype` or not finite. Error messages call the array `noun`, an entry
    `name[i]`, and the model `model`.
    """
    allowed = describe(dtype, shape[1:] if None in shape else shape)
    try:
        array = np.asarray(value)
    except ValueError:
        raise error(f"{name}: rows differ in length, not {allowed}") from None
    except (TypeError, RuntimeError) as refusal:
        # Arrays of other libraries may refuse the conversion: torch's with a gradient, for example.
        raise error(
            f"{noun} of {model!r}: numbers of {allowed}, not {kind(value)}: {refusal}"
        ) from None
    if array.dtype.kind not in "fiub" or isinstance(value, str | bytes):
        raise error(
            f"{noun} of {model!r}: numbers of {allowed}, not {kind(value)} of {array.dtype}"
        )
    if array.ndim != len(shape) or any(
        expected not in (None, length) for expected, length in zip(shape, array.shape, strict=True)
    ):
        expected = ", ".join("n" if length is None else str(length) for length in shape)
        raise error(f"{noun} of {model!r} has shape [{expected}], not {list(array.shape)}")
    with np.errstate(over="ignore", invalid="ignore"):
        packed = array.astype(dtype, copy=False)
    right = np.asarray(np.isfinite(packed) if dtype.kind == "f" else packed == array)
    if not right.all():
        i = tuple(int(n) for n in np.argwhere(~right)[0])
        where = f"{name}[{', '.join(map(str, i))}]" if i else name
        raise error(f"{where} is {array[i]}; {model!r} takes finite numbers within {dtype}")
    return packed.tobytes()


def describe(dtype: np.dtype, shape: tuple[int | None, ...]) -> str:
    return f"{dtype} of shape {list(shape)}" if shape else f"{dtype}"


def kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"array{list(value.shape)}"
    return type(value).__name__
