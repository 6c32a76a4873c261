"""The program run in a test's own process, and what it printed."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    code: int | str | None
    out: str
    err: str

    @property
    def words(self) -> str:
        """What was printed, without the tables' lines."""
        return " ".join(self.out.replace("│", " ").split())


Run = Callable[..., Result]
