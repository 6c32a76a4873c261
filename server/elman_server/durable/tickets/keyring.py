"""Sealing of tickets with AES-256-GCM under one of several keys.

A ticket is a version, the key's id, a salt, a nonce and the ciphertext with its tag. The encryption
key is derived from the configured key and the salt (HKDF-SHA256, RFC 5869). Every process chooses a
random salt at its start, and counts nonces from 0. So no nonce repeats under the same key, for any
number of tickets and servers. Random nonces under the configured key would be safe for 2^32 tickets
only (NIST SP 800-38D, section 8.3).
"""

import hashlib
import itertools
import secrets
from collections.abc import Callable, Sequence
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from elman_server.durable.tickets.keys import KEY_NBYTES
from elman_server.errors import TicketRejected

_VERSION = 1
_ID_NBYTES, _SALT_NBYTES, _NONCE_NBYTES, _TAG_NBYTES = 4, 16, 12, 16
_HEAD_NBYTES = 1 + _ID_NBYTES + _SALT_NBYTES
SEAL_NBYTES = _HEAD_NBYTES + _NONCE_NBYTES + _TAG_NBYTES
"""Bytes added to the content by sealing."""
_KNOWN_SALTS = 1024


class Keyring:
    """Ticket keys. The first key seals; every key opens."""

    def __init__(self, keys: Sequence[bytes], *, keep: Callable[[], bytes] | None = None) -> None:
        """`keys`: at least one key, from `keys.parse_key`. `keep` is called before the first ticket
        is sealed, and returns the key to use from then on."""
        self._keep = keep
        self._opening = lru_cache(_KNOWN_SALTS)(_derived)
        self._use(keys)

    def _use(self, keys: Sequence[bytes]) -> None:
        self._keys = {_id(key): key for key in reversed(keys)}
        salt = secrets.token_bytes(_SALT_NBYTES)
        self._head = bytes([_VERSION]) + _id(keys[0]) + salt
        self._cipher = _derived(keys[0], salt)
        self._nonces = itertools.count()

    def _settle(self) -> None:
        keep, self._keep = self._keep, None
        if keep is not None:
            self._use([keep()])

    def seal(self, content: bytes) -> bytes:
        if self._keep is not None:
            self._settle()
        nonce = next(self._nonces).to_bytes(_NONCE_NBYTES, "big")
        return self._head + nonce + self._cipher.encrypt(nonce, content, self._head)

    def open(self, sealed: bytes) -> bytes:
        """Returns the content of a sealed ticket. Raises `TicketRejected` for any invalid input."""
        if len(sealed) < SEAL_NBYTES:
            raise TicketRejected(
                f"the ticket has {len(sealed)} bytes; the shortest has {SEAL_NBYTES}",
                reason="malformed",
            )
        if sealed[0] != _VERSION:
            raise TicketRejected(
                f"the ticket is of version {sealed[0]}; this server knows {_VERSION}",
                reason="malformed",
            )
        head, rest = sealed[:_HEAD_NBYTES], sealed[_HEAD_NBYTES:]
        key = self._keys.get(head[1 : 1 + _ID_NBYTES])
        if key is None and self._keep is not None:
            # Another server may have stored its own key in the meantime.
            self._settle()
            key = self._keys.get(head[1 : 1 + _ID_NBYTES])
        if key is None:
            raise TicketRejected(
                "the ticket was sealed with a key that this server does not have",
                reason="unknown_key",
            )
        cipher = self._opening(key, head[1 + _ID_NBYTES :])
        try:
            return cipher.decrypt(rest[:_NONCE_NBYTES], rest[_NONCE_NBYTES:], head)
        except InvalidTag:
            raise TicketRejected("the ticket was altered", reason="altered") from None


def _id(key: bytes) -> bytes:
    return hashlib.sha256(b"elman ticket key id" + key).digest()[:_ID_NBYTES]


def _derived(key: bytes, salt: bytes) -> AESGCM:
    derive = HKDF(algorithm=SHA256(), length=KEY_NBYTES, salt=salt, info=b"elman ticket")
    return AESGCM(derive.derive(key))
