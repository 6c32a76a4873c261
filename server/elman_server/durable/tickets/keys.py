"""The format of configured ticket keys."""

import base64
import binascii
import secrets

KEY_NBYTES = 32


def new_key() -> str:
    return base64.b64encode(secrets.token_bytes(KEY_NBYTES)).decode()


def parse_key(text: str) -> bytes:
    """Decodes 32 bytes from base64 or hex. Raises `ValueError`, with the allowed format but without
    the given text."""
    try:
        key = bytes.fromhex(text) if len(text) == 2 * KEY_NBYTES else _from_base64(text)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_NBYTES:
        raise ValueError(
            f"{KEY_NBYTES} bytes in base64 or hex; `openssl rand -base64 32` makes one that is"
        )
    return key


def _from_base64(text: str) -> bytes:
    standard = text.replace("-", "+").replace("_", "/").rstrip("=")
    return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
