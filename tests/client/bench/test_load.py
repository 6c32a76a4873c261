"""A load says what is wrong with it, and shares its sessions out."""

from math import nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.bench.load import Load


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sessions": 0}, "sessions is 0; allowed is 1 or more"),
        ({"connections": 0}, "connections is 0; allowed is 1 or more"),
        ({"window": 0}, "window is 0; allowed is 1 or more"),
        ({"sessions": 2, "connections": 3}, "connections is 3; allowed is up to 2"),
        ({"rate": 0.0}, "rate is 0.0; allowed is more than 0"),
        ({"rate": nan}, "rate is nan"),
        ({"burst": 0.5}, "burst is 0.5; allowed is 1 or more"),
        ({"seconds": 0.0}, "seconds is 0.0; allowed is more than 0"),
        ({"warm_up": -1.0}, "warm_up is -1.0; allowed is 0 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Load(**wrong)


@given(sessions=st.integers(1, 200), data=st.data())
def test_connections_share_the_sessions_evenly(sessions: int, data: st.DataObject) -> None:
    connections = data.draw(st.integers(1, sessions))
    shares = Load(sessions=sessions, connections=connections).shares
    assert [session for share in shares for session in share] == list(range(sessions))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
