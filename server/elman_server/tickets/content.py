"""What a ticket holds, in bytes.

Only who has the key can make such bytes, so their form is trusted; whether they fit the model is
not.
"""

import json
import struct
from dataclasses import dataclass
from functools import lru_cache

_HEAD = struct.Struct("<QdB32sH")
"""Position, expiry, whether there are tensors, whose it is, and the length of the model's part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The model that a ticket is of."""

    model: str
    version: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    origin: Origin
    position: int
    expires: float
    """Seconds since 1970."""
    owner: bytes
    """32 bytes that stand for who may use it."""
    tensors: bytes | None
    """Little-endian numbers, in the order in which the model names them; None for the initial
    state."""

    def encode(self) -> bytes:
        model = _encoded(self.origin)
        head = _HEAD.pack(
            self.position, self.expires, self.tensors is not None, self.owner, len(model)
        )
        return head + model + (self.tensors or b"")

    @staticmethod
    def decode(data: bytes) -> "Content":
        """What `encode` gave."""
        position, expires, there, owner, length = _HEAD.unpack_from(data)
        stop = _HEAD.size + length
        return Content(
            origin=Origin(**json.loads(data[_HEAD.size : stop])),
            position=position,
            expires=expires,
            owner=owner,
            tensors=data[stop:] if there else None,
        )


@lru_cache
def _encoded(origin: Origin) -> bytes:
    fields = {"model": origin.model, "version": origin.version, "fingerprint": origin.fingerprint}
    return json.dumps(fields, separators=(",", ":")).encode()


def overhead_nbytes(origin: Origin) -> int:
    """What a content takes beside its tensors."""
    return _HEAD.size + len(_encoded(origin))
