"""Safe reading of .npy files: numbers only, no pickled code.

This module knows no models; callers check that an array fits a model.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman_server.model.ordinaryfile import open_ordinary


class ArrayFileError(ValueError):
    """Error for a file without a valid .npy array, or with an array too large for memory."""


def read(path: Path) -> NDArray[Any]:
    """Reads the array in a file. Raises `ArrayFileError` for invalid contents, and `OSError` if the
    file can't be read or is not a regular file."""
    file, _ = open_ordinary(path)
    with file:
        try:
            found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        except OSError:
            raise
        except MemoryError:
            raise ArrayFileError("says it holds more than memory does") from None
        except Exception as error:  # any error from parsing a broken header
            raise ArrayFileError("no .npy file of numbers") from error
    return found
