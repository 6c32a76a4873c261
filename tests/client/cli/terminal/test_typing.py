"""What is typed becomes pushes of sessions that are opened when they are needed, and ways back."""

from collections.abc import Iterator
from typing import Any, cast

import pytest

import elman
from elman import Prediction, Stream
from elman.cli.elements import Element
from elman.cli.printing import Printer
from elman.cli.terminal.keyboard import Key, Typed
from elman.cli.terminal.typing import Typing


class Server:
    """Sessions whose state is their text, and whose tickets are that too."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.tickets = True
        self.full = False

    def open(self, ticket: bytes | None) -> Stream:
        if self.full:
            raise elman.ServerOverloaded("no room for another session", retry_after=1)
        self.sessions.append(Session(self, (ticket or b"").decode()))
        return cast(Stream, self.sessions[-1])

    @property
    def open_texts(self) -> list[str]:
        return [session.text for session in self.sessions if not session.closed]


class Session:
    def __init__(self, server: Server, text: str) -> None:
        self._server = server
        self.text = text
        self.closed = False

    def map(self, text: str) -> Iterator[str]:
        for character in text:
            self.text += character
            yield self.text

    def ticket(self) -> bytes:
        if not self._server.tickets:
            raise elman.InvalidRequest("the server has no tickets of this model")
        return self.text.encode()

    def close(self) -> None:
        self.closed = True


class Lines:
    """A printer that keeps what it is told; a prediction is the text up to its element."""

    def __init__(self) -> None:
        self.lines: list[tuple[object, ...]] = []

    def prediction(self, session: int, _element: Element, prediction: Prediction) -> None:
        self.lines.append((session, prediction))

    def taken_back(self, session: int, position: int, element: str) -> None:
        self.lines.append((session, position, element))


@pytest.fixture
def server() -> Server:
    return Server()


def typed(server: Server, *bursts: str, **options: Any) -> list[tuple[object, ...]]:
    """What is printed; "<" is Backspace, "^" an arrow."""
    keys: dict[str, Typed] = {"<": Key.BACKSPACE, "^": Key.OTHER}
    lines = Lines()
    allowed = options.pop("allowed", frozenset("abc"))
    typing = Typing(server.open, cast(Printer, lines), allowed=allowed, splits=True, **options)
    typing.run([keys.get(key, key) for key in burst] for burst in bursts)
    return lines.lines


def test_each_character_goes_to_the_session_that_is_open(server: Server) -> None:
    assert typed(server, "a", "bc") == [(0, "a"), (0, "ab"), (0, "abc")]
    assert len(server.sessions) == 1
    assert server.open_texts == []


def test_enter_ends_a_session_and_the_next_key_begins_one(server: Server) -> None:
    assert typed(server, "a\n\nb", "\n") == [(0, "a"), (1, "b")]
    assert typed(server, "a\nb", one=True) == [(0, "a"), (0, "b")]


def test_keys_that_mean_nothing_ring(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(server, "a^b", "x") == [(0, "a"), (0, "ab")]
    assert capsys.readouterr().err == "\a\a"
    assert typed(server, "x", allowed=None) == [(0, "x")]


def test_backspace_goes_on_before_the_last_element(server: Server) -> None:
    lines = typed(server, "ab", "c", "<", "<", "a")
    assert lines[3:] == [(0, 2, "c"), (0, 1, "b"), (0, "aa")]
    assert server.open_texts == []


def test_a_burst_of_keys_is_taken_in_its_order(server: Server) -> None:
    assert typed(server, "ab<c<<")[2:] == [(0, 1, "b"), (0, "ac"), (0, 1, "c"), (0, 0, "a")]


def test_a_session_that_has_ended_is_not_gone_back_to(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(server, "a\n<", "<", "b<<") == [(0, "a"), (1, "b"), (1, 0, "b")]
    assert capsys.readouterr().err == "\a" * 3


def test_what_can_not_be_taken_back_is_told(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.tickets = False
    assert typed(server, "a", "<", "b") == [(0, "a"), (0, "ab")]
    why = "the server has no tickets of this model"
    assert capsys.readouterr().err == f"Backspace can't take back: {why}\n"
    server.tickets = True
    assert typed(server, "a", "<", fixed="so it is") == [(0, "a")]
    assert capsys.readouterr().err == "Backspace can't take back: so it is\n"


def test_a_server_that_is_full_leaves_the_session_as_it_is(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    def bursts() -> Iterator[list[Typed]]:
        yield ["a"]
        server.full = True
        yield [Key.BACKSPACE]
        assert server.open_texts == ["a"]
        yield ["b"]

    lines = Lines()
    allowed = frozenset("ab")
    Typing(server.open, cast(Printer, lines), allowed=allowed, splits=True).run(bursts())
    assert lines.lines == [(0, "a"), (0, "ab")]
    assert "no room for another session" in capsys.readouterr().err
