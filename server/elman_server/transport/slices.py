"""A push in slices: which sessions get which of its elements, a bounded number at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSlice:
    """Entries `first` and following of a push. Of the first entry, earlier slices may hold more
    elements, and of the last one, later slices."""

    first: int
    counts: Sequence[int]
    """The elements of each entry that are in this slice."""
    begins: bool
    """Whether the first entry begins here."""
    start: int
    stop: int
    """Its elements are those from `start` to `stop - 1` of the push."""


def sliced(counts: Sequence[int], *, elements: int, entries: int) -> Iterator[PushSlice]:
    """All elements of a push whose entries bring `counts`, in slices of at most so many elements
    and entries."""
    first = start = total = 0
    own: list[int] = []
    begins = True

    def made() -> PushSlice:
        return PushSlice(first=first, counts=own, begins=begins, start=start, stop=start + total)

    for entry, count in enumerate(counts):
        left = count
        while True:
            taken = min(left, elements - total)
            own.append(taken)
            total += taken
            left -= taken
            if total < elements and len(own) < entries:
                break
            yield made()
            start, total, own = start + total, 0, []
            first, begins = (entry, False) if left else (entry + 1, True)
            if not left:
                break
    if own:
        yield made()
