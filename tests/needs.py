"""What a test needs of the machine: skipped without it, or failed where it must be there."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

_DAEMONS = ("/usr/sbin", "/sbin")
_NO = ("", "0", "no", "false")


def missing(need: str, what: str) -> NoReturn:
    """Skips the test, as `what` is not there; or fails it, where the variable ELMAN_TESTS_NEED_...
    of that need says so, as in CI."""
    if os.environ.get(f"ELMAN_TESTS_NEED_{need.upper()}", "").lower() in _NO:
        pytest.skip(what)
    pytest.fail(what)


def program(name: str, package: str, need: str = "") -> str:
    """The path of a program that a package of Debian's has. `need`: its own name in the variable,
    unless it is the program's."""
    # Daemons are not on every user's path.
    places = [os.environ.get("PATH", ""), *_DAEMONS]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        missing(need or name, f"{name} is not installed (Debian: apt-get install {package})")
    return found


def library(pattern: str, need: str, package: str) -> Path:
    """The path of a shared library that a package of Debian's has."""
    for found in sorted(Path("/usr/lib").glob(pattern)):
        return found
    missing(need, f"{pattern} is not installed (Debian: apt-get install {package})")
