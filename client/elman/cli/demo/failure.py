"""The one error of the demo."""


class DemoFailed(Exception):
    """Something was not as it should be; the message is one line."""


def require(condition: bool, message: str) -> None:
    """Raises `DemoFailed` with `message` unless `condition` holds."""
    if not condition:
        raise DemoFailed(message)
