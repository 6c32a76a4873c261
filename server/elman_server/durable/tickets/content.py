"""What a ticket holds, in bytes.

Only who has the key can make such bytes, so their form is trusted; whether they fit the model is
not.
"""

import json
import struct
from dataclasses import dataclass
from functools import lru_cache

_HEAD = struct.Struct("<QdB32sH")
"""Position, expiry, flags, whose it is, and the length of the model's part."""
_TENSORS, _NAMED = 1, 2
"""Flags: what follows the model's part. First comes what is of a named session."""
ATTACHMENT_NBYTES = 16
_NAME = struct.Struct(f"<32s{ATTACHMENT_NBYTES}s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The model that a ticket is of."""

    model: str
    version: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """Of a named session to a client."""

    session: bytes
    """32 bytes that stand for the session."""
    id: bytes
    """`ATTACHMENT_NBYTES`, no other client's."""


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
    attachment: Attachment | None = None
    """If it is of a named session."""

    def encode(self) -> bytes:
        model, named = _encoded(self.origin), b""
        flags = _TENSORS * (self.tensors is not None)
        if self.attachment is not None:
            flags |= _NAMED
            named = _NAME.pack(self.attachment.session, self.attachment.id)
        head = _HEAD.pack(self.position, self.expires, flags, self.owner, len(model))
        return b"".join((head, model, named, self.tensors or b""))

    @staticmethod
    def decode(data: bytes) -> "Content":
        """What `encode` gave."""
        position, expires, flags, owner, length = _HEAD.unpack_from(data)
        stop = _HEAD.size + length
        origin = Origin(**json.loads(data[_HEAD.size : stop]))
        attachment = None
        if flags & _NAMED:
            session, id = _NAME.unpack_from(data, stop)
            attachment = Attachment(session=session, id=id)
            stop += _NAME.size
        return Content(
            origin=origin,
            position=position,
            expires=expires,
            owner=owner,
            tensors=data[stop:] if flags & _TENSORS else None,
            attachment=attachment,
        )


@lru_cache
def _encoded(origin: Origin) -> bytes:
    fields = {"model": origin.model, "version": origin.version, "fingerprint": origin.fingerprint}
    return json.dumps(fields, separators=(",", ":")).encode()


def overhead_nbytes(origin: Origin) -> int:
    """What a content takes beside its tensors at most."""
    return _HEAD.size + len(_encoded(origin)) + _NAME.size
