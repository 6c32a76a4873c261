"""The source of a recipe's data: a given file, or a file inside a package."""

from importlib.util import find_spec
from pathlib import Path

from elman_export.errors import ExportError


def packaged(distribution: str, package: str, file: str) -> Path:
    """The path of a data file inside an installed package; the package is not imported.

    Raises `ExportError`, naming the distribution to install, if the package is missing.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ExportError(
            f"the data comes with {distribution}, which is not installed: "
            f"pip install {distribution}, or give a file with --data"
        )
    return Path(spec.submodule_search_locations[0]) / file
