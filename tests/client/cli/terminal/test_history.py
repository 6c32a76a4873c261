"""Ways back in what was typed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.cli.terminal.history import History, Return


def test_from_the_first_element_the_way_back_is_a_new_session() -> None:
    history = History()
    assert history.back() is None
    history.typed("g")
    history.keep(b"g")
    assert history.back() == Return(taken_back="g", ticket=None, repeat="")
    history.went_back()
    assert (history.position, history.back()) == (0, None)


def test_the_way_back_is_from_the_ticket_before_the_element() -> None:
    history = History()
    for letter in ("g", "o"):
        history.typed(letter)
        history.keep(letter.encode())
    assert history.back() == Return(taken_back="o", ticket=b"g", repeat="")


def test_what_lies_between_the_ticket_and_the_element_is_pushed_again() -> None:
    history = History()
    history.typed("g")
    history.keep(b"g")
    history.typed("ood")
    history.keep(b"good")
    assert history.back() == Return(taken_back="d", ticket=b"g", repeat="oo")


def test_a_way_that_was_not_taken_changes_nothing() -> None:
    history = History()
    history.typed("go")
    assert history.back() == history.back()
    assert history.position == 2


def test_it_keeps_as_many_tickets_as_it_is_told() -> None:
    history = History(tickets=3)
    for letter in "abcdef":
        history.typed(letter)
        history.keep(letter.encode())
    taken = []
    while (way := history.back()) is not None:
        taken.append((way.taken_back, way.ticket))
        history.went_back()
    assert taken == [("f", b"e"), ("e", b"d")]
    assert history.position == 4


@given(
    st.lists(st.one_of(st.text("abc", min_size=1, max_size=4), st.just("<"), st.just("!"))),
    st.integers(1, 6),
)
def test_the_way_back_always_leads_to_the_text_before(script: list[str], tickets: int) -> None:
    """A ticket is the text that it is of."""
    history, text = History(tickets), ""
    for action in script:
        if action == "!":
            history.keep(text.encode())
        elif action != "<":
            history.typed(action)
            text += action
        elif (way := history.back()) is not None:
            assert (way.ticket or b"").decode() + way.repeat + way.taken_back == text
            history.went_back()
            text = text[:-1]
        assert history.position == len(text)


@pytest.mark.parametrize("length", [1, 1000])
def test_what_can_not_be_gone_back_to_is_forgotten(length: int) -> None:
    history = History(tickets=2)
    for _ in range(3):
        history.typed("a" * length)
        history.keep(b"")
    assert len(history._text) == length
