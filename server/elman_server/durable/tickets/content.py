"""The content of a ticket, as bytes.

Only a holder of the key can make such bytes, so their format is trusted. Their match with the model
is not trusted.
"""

import json
import struct
from dataclasses import dataclass
from functools import lru_cache

_HEAD = struct.Struct("<QdB32sH")
"""Position, expiry, flags, owner, and the length of the origin."""
_TENSORS, _NAMED = 1, 2
"""Flags for the parts after the origin. The attachment precedes the tensors."""
ATTACHMENT_NBYTES = 16
_NAME = struct.Struct(f"<32s{ATTACHMENT_NBYTES}s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The model of a ticket."""

    model: str
    version: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """The attachment of a named session to a client."""

    session: bytes
    """32 bytes identifying the session."""
    id: bytes
    """`ATTACHMENT_NBYTES` bytes, different for every client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    origin: Origin
    position: int
    expires: float
    """Seconds since 1970."""
    owner: bytes
    """32 bytes identifying the ticket's legitimate user."""
    tensors: bytes | None
    """Little-endian numbers, in the model's order of tensors; None for the initial state."""
    attachment: Attachment | None = None
    """The attachment of a named session; None without a name."""

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
        """Decodes the result of `encode`."""
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
    """Returns the largest size of a content without its tensors, in bytes."""
    return _HEAD.size + len(_encoded(origin)) + _NAME.size
