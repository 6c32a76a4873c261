"""What the export may lean on: of the server, only the spec, the file and how files are read, and
ONNX Runtime's door."""

import ast
from collections.abc import Iterator
from pathlib import Path

import elman_export

ROOT = Path(elman_export.__file__).parent
ALLOWED = (
    "elman_server.model.spec.",
    "elman_server.model.modelfile",
    "elman_server.model.graph.externaldata",
    "elman_server.process.memory",
    "elman_server.model.ordinaryfile.",
    "elman_server.process.sandbox",
    "elman_server.runner.ort",
    "elman_export",
)


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_of_the_rest_of_elman_only_the_spec_files_and_the_door_are_imported() -> None:
    for path in ROOT.rglob("*.py"):
        for name in imported(path):
            if name.startswith("elman"):
                assert name.startswith(ALLOWED), f"{path.name} imports {name}"
