"""Types of arrays that the engine's modules exchange."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]
"""Indices of slots: rows of the table and of the state arrays."""
Numbers = NDArray[np.int64]
Elements = NDArray[Any]
"""Elements of a model's input: `[n, *shape]`."""
Times = NDArray[np.float64]
"""Arrival times of elements: seconds on the engine's clock."""
