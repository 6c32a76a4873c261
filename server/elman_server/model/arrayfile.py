"""A .npy file of numbers: read without running what is in it, or refused.

It knows of no model; what an array must be for one is said where it is needed.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman_server.model.ordinaryfile import open_ordinary


class ArrayFileError(ValueError):
    """The file holds no array that np.save wrote, or one that memory can't hold."""


def read(path: Path) -> NDArray[Any]:
    """The one array in the file. Raises `ArrayFileError`, and `OSError` if it can't be read or is
    no ordinary file."""
    file, _ = open_ordinary(path)
    with file:
        try:
            found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        except OSError:
            raise
        except MemoryError:
            raise ArrayFileError("says it holds more than memory does") from None
        except Exception as error:  # whatever the parsers of a broken header meet
            raise ArrayFileError("no .npy file of numbers") from error
    return found
