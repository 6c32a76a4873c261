"""Who calls, where the transport knows it."""

from typing import Any


def of(context: Any) -> str:
    """The names in the caller's certificate, if it showed one; otherwise empty."""
    names = context.peer_identities() or ()
    return "\n".join(sorted(name.decode(errors="replace") for name in names))
