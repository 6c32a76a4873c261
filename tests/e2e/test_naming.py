"""Named sessions through the SDK and the command line, over threads and asyncio."""

import json
import re
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
from tests.serverprocess import ServerProcess
from tests.stepmodels import Shape, lstm, save, save_lstm
from tests.waiting import until

PROGRAM = str(Path(sys.executable).with_name("elman"))
TEXT = "abcdefgh" * 20


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("naming")


@pytest.fixture(scope="module")
def expected(root: Path) -> list[bytes]:
    path = save_lstm(root / "models/letters/1/model.onnx")
    return [outputs["next"].tobytes() for outputs in Oracle(path).run(TEXT)]


@pytest.fixture(scope="module")
def fleet(root: Path, expected: list[bytes]) -> Iterator[Fleet]:
    store = ("--state-store", f"file:{root}/store", "--session-lease", "0.5")
    with Fleet(2, str(root / "models"), *store, "--park-after", "0.3") as fleet:
        yield fleet


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def pushed(stream: Any, stop: int) -> list[bytes]:
    """What comes of the text up to there."""
    return [p["next"].tobytes() for p in stream.map(TEXT[stream.position : stop])]


def test_a_name_goes_on_on_any_server(
    fleet: Fleet, connect: Connect, expected: list[bytes], name: str
) -> None:
    clients = [connect(target) for target in fleet.targets]
    found: list[bytes] = []
    for turn in range(6):
        with clients[turn % 2].stream("letters", session=name) as stream:
            assert stream.position == 10 * turn
            found += pushed(stream, 10 * (turn + 1))
    assert found == expected[:60]


def test_a_client_that_loses_a_named_session_learns_to_whom(
    fleet: Fleet, connect: Connect, expected: list[bytes], name: str
) -> None:
    one, two = (connect(target) for target in fleet.targets)
    first = one.stream("letters", session=name)
    assert pushed(first, 5) == expected[:5]
    second = two.stream("letters", session=name)
    assert second.position == 5
    with pytest.raises(elman.SessionTaken, match=re.escape(name) + r".*another client") as taken:
        for _ in range(10_000):
            first.step("a")
    assert isinstance(taken.value, elman.SessionLost)
    assert taken.value.position >= 5
    position = second.position
    assert position == 5
    assert pushed(second, 9) == expected[5:9]
    again = one.stream("letters", session=name)
    assert again.position == 9
    with pytest.raises(elman.SessionTaken):
        second.step("a")


def test_a_parked_named_session_comes_back_unless_it_was_taken(
    fleet: Fleet, connect: Connect, expected: list[bytes], name: str
) -> None:
    client = connect(fleet.targets[0])
    stream = client.stream("letters", session=name)
    assert pushed(stream, 5) == expected[:5]
    server = fleet[0]
    until(lambda: not server.metric("elman_named_sessions"))
    assert pushed(stream, 8) == expected[5:8]
    until(lambda: not server.metric("elman_named_sessions"))
    other = connect(fleet.targets[1]).stream("letters", session=name)
    assert other.position == 8
    with pytest.raises(elman.SessionTaken):
        stream.step("a")


def test_a_branch_of_a_named_session_has_no_name(
    fleet: Fleet, connect: Connect, expected: list[bytes], name: str
) -> None:
    client = connect(fleet.targets[0])
    with client.stream("letters", session=name) as stream:
        assert pushed(stream, 5) == expected[:5]
        with stream.fork() as branch:
            assert pushed(branch, 9) == expected[5:9]
        assert pushed(stream, 7) == expected[5:7]
    with client.stream("letters", session=name) as stream:
        assert stream.position == 7


def test_a_ticket_of_a_named_session_goes_on_with_it_by_hand(
    fleet: Fleet, connect: Connect, expected: list[bytes], name: str
) -> None:
    one, two = (connect(target) for target in fleet.targets)
    with one.stream("letters", session=name) as stream:
        assert pushed(stream, 5) == expected[:5]
        ticket = stream.ticket()
    with two.stream("letters", session=name, ticket=ticket) as stream:
        assert stream.position == 5
        assert pushed(stream, 8) == expected[5:8]
    with one.stream("letters", session=name) as stream:
        assert stream.position == 8
    with pytest.raises(elman.SessionTaken):
        two.stream("letters", session=name, ticket=ticket)


def test_an_old_ticket_does_not_take_a_named_session_back(
    fleet: Fleet, connect: Connect, expected: list[bytes], name: str
) -> None:
    one, two = (connect(target) for target in fleet.targets)
    with one.stream("letters", session=name) as stream:
        assert pushed(stream, 5) == expected[:5]
        ticket = stream.ticket()
        assert pushed(stream, 9) == expected[5:9]
    for client in (one, two):
        with pytest.raises(elman.InvalidRequest, match=r"position 5; .* is at 9"):
            client.stream("letters", session=name, ticket=ticket)
    with one.stream("letters", ticket=ticket) as branch:
        assert pushed(branch, 8) == expected[5:8]
    with two.stream("letters", session=name) as stream:
        assert stream.position == 9


def test_a_restart_begins_anew(
    fleet: Fleet, connect: Connect, expected: list[bytes], name: str
) -> None:
    client = connect(fleet.targets[0])
    for _ in range(2):
        with client.stream("letters", session=name, restart=True) as stream:
            assert stream.position == 0
            assert pushed(stream, 5) == expected[:5]


@pytest.mark.parametrize(
    "options",
    [
        {"session": ""},
        {"session": "x" * 257},
        {"session": 7},
        {"session": "\udc80"},
        {"restart": True},
        {"session": "a", "restart": "yes"},
        {"session": "a", "restart": True, "ticket": b"x"},
        {"ticket": bytearray()},
        {"ticket": "x" * 10_000},
    ],
)
def test_what_is_no_name_is_refused_before_anything_is_sent(
    fleet: Fleet, connect: Connect, options: dict[str, Any]
) -> None:
    client = connect(fleet.targets[0])
    with pytest.raises(elman.InvalidRequest, match=r"session|ticket|restart") as refused:
        client.stream("letters", **options)
    assert len(str(refused.value)) < 200


def test_a_server_without_a_store_says_so(connect: Connect, root: Path) -> None:
    with ServerProcess(str(root / "models")) as server:
        client = connect(server.target)
        with pytest.raises(elman.InvalidRequest, match="no state store"):
            client.stream("letters", session="bob")


def test_a_named_session_stays_on_its_version(connect: Connect, tmp_path: Path, name: str) -> None:
    models = tmp_path / "models"
    old = save(*lstm(Shape(seed=1)), models / "letters/1/model.onnx")
    alone = [outputs["next"].tobytes() for outputs in Oracle(old).run(TEXT)]
    with Fleet(1, str(models), "--state-store", f"file:{tmp_path}/store") as fleet:
        client = connect(fleet.targets[0])
        with client.stream("letters", session=name) as stream:
            assert pushed(stream, 5) == alone[:5]
        save(*lstm(Shape(seed=2)), models / "letters/2/model.onnx")
        fleet.terminate(0)
        fleet.start(0)
        client = connect(fleet.targets[0])
        with client.stream("letters", session=name) as stream:
            assert stream.model.version == "1"
            assert pushed(stream, 9) == alone[5:9]
        with client.stream("letters", session="another") as stream:
            assert stream.model.version == "2"


def test_workers_share_names(
    root: Path, connect: Connect, expected: list[bytes], tmp_path: Path
) -> None:
    store = ("--state-store", f"file:{tmp_path}/store", "--session-lease", "0.5")
    with Fleet(1, str(root / "models"), *store, "--workers", "2") as fleet:
        found: list[bytes] = []
        for turn in range(12):
            client = connect(fleet.targets[0])
            stream = client.stream("letters", session="bob")
            assert stream.position == turn
            found += pushed(stream, turn + 1)
            if turn % 2:
                stream.close()
        assert fleet[0].metric("elman_named_sessions") == 0
        assert fleet[0].metric("elman_state_store_down") == 0
        assert fleet[0].metric("elman_sessions_closed_total", reason="taken_over") == 6
    assert found == expected[:12]


def test_what_another_key_sealed_is_of_no_use_until_the_session_begins_anew(
    root: Path, connect: Connect, expected: list[bytes], tmp_path: Path
) -> None:
    for last in (False, True):
        store = ("--state-store", f"file:{tmp_path}/store")
        with Fleet(1, str(root / "models"), *store) as fleet:  # with a key of its own
            client = connect(fleet.targets[0])
            if not last:
                with client.stream("letters", session="bob") as stream:
                    stream.step("a")
                fleet.terminate(0)
                continue
            for version in (None, 1):
                with pytest.raises(elman.InvalidRequest, match=r"kept.* key .*restart"):
                    client.stream("letters", version=version, session="bob")
            with client.stream("letters", session="bob", restart=True) as stream:
                assert pushed(stream, 1) == expected[:1]


def test_a_store_needs_a_key(root: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "elman_server", "--demo", "--state-store", f"file:{root}/none"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode != 0
    assert "ticket_key" in found.stderr and "Traceback" not in found.stderr


def test_the_command_line_goes_on_with_a_name(fleet: Fleet, name: str) -> None:
    positions = []
    for _ in range(2):
        found = subprocess.run(
            [
                *(PROGRAM, "stream", "letters", "--json"),
                *("--target", fleet.targets[0], "--session", name),
            ],
            input="ab\nc",
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        lines = [json.loads(line) for line in found.stdout.splitlines()]
        assert {line["session"] for line in lines} == {0}
        positions += [line["position"] for line in lines]
    assert positions == list(range(6))
