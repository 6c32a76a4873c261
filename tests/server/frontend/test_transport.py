"""How many connections there may be follows from what the system allows."""

import resource

import pytest

from elman_server.frontend.grpcio import transport

UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "most", "raised"),
    [
        (1024, 1024, 896, None),
        (1024, 4096, 3968, 4096),
        (1024, 1_000_000, 10_000, 10_128),
        (1024, UNLIMITED, 10_000, 10_128),
        (20_000, 20_000, 10_000, None),
        (UNLIMITED, UNLIMITED, 10_000, None),
        (64, 64, 1, None),
    ],
)
def test_connections_leave_descriptors_to_everything_else(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int, raised: int | None
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    assert transport.connections(10_000) == most
    assert asked == ([] if raised is None else [(raised, hard)])
