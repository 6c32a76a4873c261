"""A push in slices is the same push."""

from itertools import accumulate

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from elman_server.frontend.connection.slices import sliced


@given(
    counts=st.lists(st.integers(0, 40), max_size=30),
    elements=st.integers(1, 20),
    entries=st.integers(1, 10),
)
def test_each_entry_gets_its_own_elements_in_their_order(
    counts: list[int], elements: int, entries: int
) -> None:
    expected = [
        list(range(stop - count, stop))
        for count, stop in zip(counts, accumulate(counts), strict=True)
    ]
    found: list[list[int]] = [[] for _ in counts]
    begun: list[int] = []
    for part in sliced(np.array(counts, np.int64), elements=elements, entries=entries):
        assert 1 <= len(part.counts) <= entries
        assert sum(part.counts) == part.stop - part.start <= elements
        start = part.start
        for entry, count in enumerate(part.counts, part.first):
            if entry > part.first or part.begins:
                begun.append(entry)
            found[entry] += range(start, start + count)
            start += count
    assert found == expected
    assert begun == list(range(len(counts)))
