"""The documentation has the program's own settings, metrics and files."""

import re
from pathlib import Path

import pytest

from elman_server.cli.settings import SETTINGS
from elman_server.telemetry.table import ROWS
from elman_server.workers.supervisor import supervised


@pytest.fixture
def text(root: Path) -> str:
    return (root / "docs/operations.md").read_text()


def test_its_flag_table_is_the_configuration(text: str) -> None:
    rows = re.findall(r"^\| `(\S+)` \| `(ELMAN_\w+)` \| (?:`(.*)`)? ?\| .+ \|$", text, re.MULTILINE)
    expected = []
    for setting in SETTINGS.values():
        default = setting.default
        if isinstance(default, tuple):
            default = ",".join(default)
        elif isinstance(default, bool):
            default = str(default).lower()
        flag = "REPOSITORY" if setting.name == "repository" else setting.flag
        expected.append((flag, setting.variable, "" if default is None else str(default)))
    assert rows == expected


def test_its_metrics_table_is_what_the_server_counts(text: str) -> None:
    rows = re.findall(r"^\| `(elman_\w+)` \| (\w+) \| .+ \|$", text, re.MULTILINE)
    families = {row.name: type(row).__name__.lower() for row in ROWS}
    families |= {family.name: family.kind for family in supervised(serving=1, restarts=0)}
    expected = {
        f"{name}_total" if kind == "counter" else name: kind
        for name, kind in families.items()
        if name.startswith("elman_")
    }
    assert dict(rows) == expected


def test_every_deployment_file_that_is_linked_to_exists(root: Path) -> None:
    text = (root / "docs/deployment.md").read_text()
    links = re.findall(r"\]\((\.\./[^)#]+)\)", text)
    assert links
    assert all((root / "docs" / link).is_file() for link in links)
