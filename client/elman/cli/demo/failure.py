"""The error of the demo."""


class DemoFailed(Exception):
    """A check of the demo failed; the message is one line."""


def require(condition: bool, message: str) -> None:
    """Raises `DemoFailed` with `message` unless `condition` holds."""
    if not condition:
        raise DemoFailed(message)
