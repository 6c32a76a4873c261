"""What is sealed is opened by those who have the key, as it was; and nothing else is."""

import random
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman_server.durable.tickets.keyring import SEAL_NBYTES, Keyring
from elman_server.durable.tickets.keys import KEY_NBYTES, new_key, parse_key
from elman_server.errors import TicketRejected

OLD, NEW, OTHER = (secrets.token_bytes(KEY_NBYTES) for _ in range(3))


def reason(keyring: Keyring, sealed: bytes) -> str:
    with pytest.raises(TicketRejected) as caught:
        keyring.open(sealed)
    assert str(caught.value)
    return caught.value.reason


@given(content=st.binary(max_size=2000))
def test_another_process_with_the_key_opens_what_was_sealed(content: bytes) -> None:
    sealed = Keyring([OLD]).seal(content)
    assert Keyring([OLD]).open(sealed) == content
    assert len(sealed) == len(content) + SEAL_NBYTES
    assert len(content) < 4 or content not in sealed


def test_the_first_key_seals_and_all_open() -> None:
    before, during, after = Keyring([OLD]), Keyring([NEW, OLD]), Keyring([NEW])
    assert during.open(before.seal(b"state")) == b"state"
    assert after.open(during.seal(b"state")) == b"state"
    assert reason(after, before.seal(b"state")) == "unknown_key"
    assert reason(before, during.seal(b"state")) == "unknown_key"


def test_no_two_tickets_are_alike() -> None:
    """No nonce comes twice under a key: neither in a process nor in two of them."""
    rings = [Keyring([OLD]) for _ in range(20)]
    heads = {ring.seal(b"state")[:33] for ring in rings for _ in range(500)}
    assert len(heads) == 20 * 500


def test_not_one_of_100_000_tampered_tickets_is_opened() -> None:
    keyring, rng = Keyring([NEW, OLD]), random.Random(5)
    sealed = keyring.seal(rng.randbytes(1024))
    tampered = [
        _flipped(sealed, place, 1 << bit) for place in range(len(sealed)) for bit in range(8)
    ]
    tampered += [sealed[:length] for length in range(len(sealed))]
    tampered += [sealed + rng.randbytes(rng.randint(1, 40)) for _ in range(1000)]
    while len(tampered) < 80_000:
        flipped = sealed
        for _ in range(rng.randint(2, 20)):
            flipped = _flipped(flipped, rng.randrange(len(sealed)), rng.randint(1, 255))
        if flipped != sealed:
            tampered.append(flipped)
    tampered += [rng.randbytes(rng.randint(0, 2000)) for _ in range(10_000)]
    # With the head of a real one, the rest is all that could be wrong.
    tampered += [sealed[:21] + rng.randbytes(rng.randint(0, 2000)) for _ in range(10_000)]
    assert len(tampered) == 100_000
    assert {reason(keyring, each) for each in tampered} == {"malformed", "unknown_key", "altered"}
    assert keyring.open(sealed)


@pytest.mark.parametrize(
    "text", [OLD.hex(), OLD.hex().upper(), new_key(), "-" * 43, "_" * 43 + "="]
)
def test_a_key_is_32_bytes_in_hex_or_base64(text: str) -> None:
    assert len(parse_key(text)) == KEY_NBYTES


@pytest.mark.parametrize(
    "text", ["", "secret", OLD.hex()[:-2], "g" * 64, new_key() + new_key(), "ä" * 43, "a" * 44]
)
def test_anything_else_is_no_key_and_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_key(text)
    assert "32 bytes in base64 or hex" in str(caught.value)
    assert not text or text not in str(caught.value)


def _flipped(sealed: bytes, place: int, mask: int) -> bytes:
    changed = bytearray(sealed)
    changed[place] ^= mask
    return bytes(changed)
