"""Streams that go on from their tickets, by hand and by themselves, over threads and asyncio."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import elman
from tests.chaos.fleet import Fleet
from tests.e2e.conftest import Connect
from tests.oracle import Oracle
from tests.stepmodels import save_lstm

TEXT = "abcdefgh" * 60


@pytest.fixture
def expected(repository: Path) -> list[bytes]:
    path = save_lstm(repository / "letters/1/model.onnx")
    return [outputs["next"].tobytes() for outputs in Oracle(path).run(TEXT)]


@pytest.fixture
def fleet(repository: Path, expected: list[bytes]) -> Iterator[Fleet]:
    with Fleet(2, str(repository), "--park-after", "0.3") as fleet:
        yield fleet


def pushed(stream: Any, stop: int) -> list[bytes]:
    """What comes of the text up to there."""
    return [p["next"].tobytes() for p in stream.map(TEXT[stream.position : stop])]


def test_a_ticket_goes_on_on_another_server(
    fleet: Fleet, connect: Connect, expected: list[bytes]
) -> None:
    one, other = (connect(target) for target in fleet.targets)
    with one.stream("letters") as stream:
        assert pushed(stream, 100) == expected[:100]
        ticket = stream.ticket()
        assert pushed(stream, 110) == expected[100:110]
    with other.stream("letters", ticket=ticket) as stream:
        assert stream.position == 100
        predictions = list(stream.map(TEXT[100:]))
    assert [p.position for p in predictions] == list(range(100, len(TEXT)))
    assert [p["next"].tobytes() for p in predictions] == expected[100:]


def test_a_ticket_goes_on_in_another_process(
    fleet: Fleet, connect: Connect, expected: list[bytes], tmp_path: Path
) -> None:
    client = connect(fleet.targets[0])
    with client.stream("letters") as stream:
        pushed(stream, 50)
        (tmp_path / "ticket").write_bytes(stream.ticket())
    program = (
        "import sys, elman, pathlib\n"
        "ticket = pathlib.Path(sys.argv[2]).read_bytes()\n"
        "with elman.connect(sys.argv[1]) as client:\n"
        "    with client.stream('letters', ticket=ticket) as stream:\n"
        "        print(stream.position, stream.step(sys.argv[3])['next'].tobytes().hex())\n"
    )
    run = [sys.executable, "-c", program, fleet.targets[1], str(tmp_path / "ticket"), TEXT[50]]
    found = subprocess.run(run, check=True, capture_output=True, text=True, timeout=60).stdout
    assert found.split() == ["50", expected[50].hex()]


def test_a_ticket_is_of_all_that_was_pushed_whether_or_not_it_was_read(
    fleet: Fleet, connect: Connect, expected: list[bytes]
) -> None:
    client = connect(fleet.targets)
    with client.stream("letters") as stream:
        stream.push_many(TEXT[:300])
        ticket = stream.ticket()
        with client.stream("letters", ticket=ticket) as again:
            assert again.position == 300
            assert pushed(again, 310) == expected[300:310]
        stream.close()
        assert [p["next"].tobytes() for p in stream] == expected[:300]


def test_branches_do_not_touch_one_another(
    fleet: Fleet, connect: Connect, expected: list[bytes]
) -> None:
    client = connect(fleet.targets)
    with client.stream("letters") as stream:
        assert pushed(stream, 20) == expected[:20]
        branch = stream.fork()
        other = [p["next"].tobytes() for p in branch.map("hgfedcba")]
        assert pushed(stream, 40) == expected[20:40]
        again = branch.fork()
        assert again.position == branch.position == 28
        assert stream.position == 40
        alone = client.predict("letters", TEXT[:20] + "hgfedcba")["next"]
        assert other == [row.tobytes() for row in alone[20:]]


def test_a_fork_of_a_stream_that_had_nothing_yet_begins_at_the_beginning(
    fleet: Fleet, connect: Connect, expected: list[bytes]
) -> None:
    client = connect(fleet.targets)
    with client.stream("letters") as stream, stream.fork() as branch:
        assert pushed(branch, 5) == pushed(stream, 5) == expected[:5]


def test_a_loop_over_predictions_does_not_notice_that_its_server_is_killed(
    fleet: Fleet, connect: Connect, expected: list[bytes]
) -> None:
    client = connect(fleet.targets, ticket_every=100)
    with client.stream("letters", window=40) as stream:
        found = []
        for prediction in stream.map(TEXT):
            found.append(prediction["next"].tobytes())
            if prediction.position == 250:
                [busy] = fleet.busy()
                fleet.kill(busy)
    assert found == expected


def test_an_idle_stream_is_parked_and_does_not_notice(
    fleet: Fleet, connect: Connect, expected: list[bytes]
) -> None:
    client = connect(fleet.targets)
    with client.stream("letters") as stream:
        found = pushed(stream, 30)
        while fleet.busy():
            pass
        found += pushed(stream, 60)
        first = stream.id
        while fleet.busy():
            pass
        # Parked, it needs no server at all.
        for number in (0, 1):
            fleet.kill(number)
        ticket = stream.ticket()
        fleet.start(1)
        found += pushed(stream, 90)
        assert stream.id != first
        with client.stream("letters", ticket=ticket) as again:
            assert pushed(again, 90) == expected[60:90]
    assert found == expected[:90]


def test_a_stream_whose_model_is_gone_is_lost_with_its_ticket(
    fleet: Fleet, connect: Connect, expected: list[bytes], repository: Path
) -> None:
    client = connect(fleet.targets, ticket_every=100)
    stream = client.stream("letters")
    assert pushed(stream, 250) == expected[:250]
    for number in (0, 1):
        fleet.kill(number)
    save_lstm(repository / "letters/1/model.onnx", seed=5)
    for number in (0, 1):
        fleet.start(number)
    with pytest.raises(elman.SessionLost, match="fingerprint") as caught:
        stream.step("a")
    assert caught.value.position == 250
    assert caught.value.ticket is not None
    with pytest.raises(elman.InvalidRequest, match="fingerprint"):
        client.stream("letters", ticket=caught.value.ticket)


@pytest.mark.parametrize("ticket", [b"", "ticket", 7, b"x" * 200])
def test_what_is_no_ticket_is_refused(fleet: Fleet, connect: Connect, ticket: Any) -> None:
    client = connect(fleet.targets)
    with pytest.raises(elman.InvalidRequest, match="ticket"):
        client.stream("letters", ticket=ticket)
    with client.stream("letters") as stream:
        assert stream.step("a").position == 0
