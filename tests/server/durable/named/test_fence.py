"""Until when what named sessions answered may be told."""

import pytest

from elman_server.durable.named.fence import Fence

LEASE, TIMEOUT = 3.0, 2.0


def fence(*, go_on: bool = True) -> Fence:
    return Fence(lease_seconds=LEASE, timeout=TIMEOUT, now=0.0, go_on=go_on)


def test_claims_are_good_for_a_lease_from_when_their_renewal_began() -> None:
    it = fence()
    assert not it.lapsed(3.0)
    assert it.lapsed(3.1)
    it.renewed(begun=5.0, now=7.0)
    assert not it.lapsed(8.0)
    assert it.lapsed(8.1)
    assert not it.down


def test_a_claim_is_good_for_a_lease_from_when_it_was_asked_for_until_it_is_renewed() -> None:
    it = fence()
    it.renews()
    it.renewed(begun=1.0, now=1.1)
    it.claimed(0.9)  # it was under way all the time
    assert not it.lapsed(3.9)
    assert it.lapsed(4.0)
    it.renews()
    it.renewed(begun=2.0, now=2.1)
    assert not it.lapsed(5.0)


def test_a_renewal_says_nothing_of_claims_that_were_got_while_it_was_under_way() -> None:
    it = fence()
    it.renews()
    it.claimed(0.4)
    it.renewed(begun=0.5, now=2.9)
    assert not it.lapsed(3.4)
    assert it.lapsed(3.5)
    it.renews()
    assert it.failed(begun=2.9, now=3.0)
    it.renews()
    it.claimed(3.0)
    it.renewed(begun=3.1, now=3.3)
    assert not it.lapsed(6.0)
    assert it.lapsed(6.1)


def test_a_claim_that_a_renewal_failed_to_renew_is_as_old_as_it_was() -> None:
    it = fence(go_on=False)
    it.claimed(1.0)
    it.renews()
    assert it.failed(begun=1.5, now=1.6)
    assert not it.lapsed(3.0)
    it.renews()
    it.renewed(begun=2.0, now=2.1)
    assert not it.lapsed(5.0)


@pytest.mark.parametrize("go_on", [True, False])
def test_a_store_that_fails_for_less_than_a_lease_is_no_outage(go_on: bool) -> None:
    it = fence(go_on=go_on)
    it.renewed(begun=1.0, now=1.1)
    assert it.failed(2.0, now=3.9)
    assert not it.lapsed(4.0)
    it.renewed(begun=3.9, now=4.0)
    assert not it.lapsed(6.9)


def test_where_sessions_wait_a_store_that_is_down_leaves_claims_to_their_leases() -> None:
    it = fence(go_on=False)
    for begun in (1.0, 2.0, 3.5, 5.5):
        assert it.failed(begun, now=begun + 0.1)
        assert it.down
        assert it.lapsed(begun + 0.1) == (begun > LEASE)
    it.renewed(begun=9.0, now=9.1)
    assert not it.lapsed(9.1)
    assert not it.down
    assert it.lends_from == 9.1 + LEASE


def test_where_they_go_on_a_store_that_is_down_is_no_outage_as_long_as_it_is_looked_at() -> None:
    it = fence()
    for begun in (3.5, 5.5, 7.5):
        assert it.failed(begun, now=begun + TIMEOUT)
        assert not it.lapsed(begun + 2 * TIMEOUT)
    assert it.down


def test_who_stood_still_after_he_found_the_store_down_looks_again() -> None:
    it = fence()
    assert it.failed(1.0, now=1.1)
    assert it.lapsed(60.0)


def test_a_renewal_that_failed_while_the_server_stood_still_decides_nothing() -> None:
    it = fence()
    assert not it.failed(1.0, now=60.0)
    assert it.lapsed(60.0)
    assert not it.down
    assert it.failed(60.0, now=60.1)
    assert not it.lapsed(60.2)


def test_but_one_that_takes_that_long_again_and_again_does() -> None:
    it = fence()
    assert not it.failed(1.0, now=9.0)
    assert it.failed(9.0, now=17.0)
    assert not it.failed(17.0, now=25.0)


def test_after_an_outage_nothing_is_lent_for_a_lease() -> None:
    it = fence()
    it.renewed(begun=1.0, now=1.5)
    assert it.lends_from == 0.0
    it.failed(2.0, now=2.1)
    it.renewed(begun=4.0, now=4.5)
    assert it.lends_from == 4.5 + LEASE
    it.renewed(begun=9.0, now=9.5)
    assert it.lends_from == 4.5 + LEASE
