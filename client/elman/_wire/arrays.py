"""Packs arrays of numbers for the wire, or says what is wrong with them."""

from typing import Any

import numpy as np

from elman.errors import InvalidRequest


def pack(
    given: Any,
    dtype: np.dtype,
    shape: tuple[int | None, ...],
    *,
    noun: str,
    name: str,
    model: str,
    error: type[InvalidRequest],
) -> bytes:
    """Raw little-endian numbers of `given`, which is anything that numpy makes an array of.

    `shape` may begin with None: any number of rows. Raises `error` unless the array has that shape
    and every number of it is finite and one of `dtype`. `noun` and `name` are what the array and
    its entries are called there, `model` whose it is.
    """
    allowed = describe(dtype, shape[1:] if None in shape else shape)
    try:
        array = np.asarray(given)
    except ValueError:
        raise error(f"{name}: rows differ in length, not {allowed}") from None
    except (TypeError, RuntimeError) as refusal:
        # An array of another library that does not become numpy's: torch's with a gradient, say.
        raise error(
            f"{noun} of {model!r}: numbers of {allowed}, not {kind(given)}: {refusal}"
        ) from None
    if array.dtype.kind not in "fiub" or isinstance(given, str | bytes):
        raise error(
            f"{noun} of {model!r}: numbers of {allowed}, not {kind(given)} of {array.dtype}"
        )
    if array.ndim != len(shape) or any(
        wanted not in (None, length) for wanted, length in zip(shape, array.shape, strict=True)
    ):
        wanted = ", ".join("n" if length is None else str(length) for length in shape)
        raise error(f"{noun} of {model!r} has shape [{wanted}], not {list(array.shape)}")
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
