"""Batches of a call to a store."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")

_ITEMS = 250
_NBYTES = 4 * 1024 * 1024
"""Limits of a batch. This process does no other work while a batch is built, and Redis serves no
other client during a batch."""


def batches(
    items: Iterable[_T], nbytes: Callable[[_T], int] = lambda item: 0
) -> Iterator[list[_T]]:
    """Yields the items in batches. An item above the limit of bytes gets its own batch."""
    batch: list[_T] = []
    total = 0
    for item in items:
        total += nbytes(item)
        if batch and (len(batch) == _ITEMS or total > _NBYTES):
            yield batch
            batch, total = [], nbytes(item)
        batch.append(item)
    if batch:
        yield batch
