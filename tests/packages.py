"""Trained ONNX files that come with installed packages, found without importing these."""

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest


def packaged(distribution: str, name: str) -> Path:
    """The file of that name in an installed distribution; without it, the test is skipped."""
    try:
        found = [each for each in files(distribution) or [] if each.name == name]
    except PackageNotFoundError:
        pytest.skip(f"{distribution} is not installed; see tests/packages.txt")
    if not found:
        pytest.skip(f"{distribution} has no {name}")
    return Path(str(found[0].locate()))
