"""Docstrings begin with their noun or verb, and repeat nouns in place of pronouns."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = [ROOT / "client/elman", ROOT / "server/elman_server", ROOT / "export/elman_export"]
FOLDERS = sorted(
    {path.parent for package in PACKAGES for path in package.rglob("*.py")}
    - {ROOT / "client/elman/v1"}
)
MOST_PRONOUNS = 45
"""In a thousand words; click and structlog have some 50, rich and prometheus_client some 35."""
PRONOUNS = frozenset(
    [
        "it",
        "its",
        "itself",
        "they",
        "them",
        "their",
        "theirs",
        "themselves",
        "this",
        "these",
        "that",
        "those",
        "who",
        "whom",
        "whose",
        "which",
        "what",
        "he",
        "him",
        "his",
        "she",
        "her",
        "hers",
        "we",
        "us",
        "our",
        "ours",
        "you",
        "your",
        "yours",
        "one",
        "ones",
        "other",
        "others",
        "another",
        "nobody",
        "somebody",
        "anybody",
        "everybody",
        "someone",
        "anyone",
        "everyone",
        "nothing",
        "something",
        "anything",
        "everything",
    ]
)
OPENINGS = ("The same", "Those", "Of", "Who", "Whose", "Whom")


@cache
def docstrings(path: Path) -> list[tuple[int, str]]:
    """With their lines. Also of attributes, which stand below them."""
    return [
        (statement.lineno, statement.value.value)
        for node in ast.walk(ast.parse(path.read_text()))
        for statement in _body(node)
        if isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    ]


def _body(node: ast.AST) -> Iterator[ast.AST]:
    body = getattr(node, "body", None)
    return iter(body) if isinstance(body, list) else iter(())


def words(text: str) -> list[str]:
    """Without what is quoted as code."""
    return re.findall(r"[a-z']+(?:-[a-z]+)*", re.sub(r"`[^`]*`", " ", text).lower())


def pronouns_in_a_thousand(paths: list[Path]) -> float:
    said = [word for path in paths for _, text in docstrings(path) for word in words(text)]
    return 1000 * sum(word in PRONOUNS for word in said) / max(1, len(said))


def test_pronouns_are_counted() -> None:
    assert words("A session, and who owns it. `those` that_are") == [
        *("a", "session", "and", "who", "owns", "it", "that", "are")
    ]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_nouns_are_repeated_in_place_of_pronouns(package: Path) -> None:
    paths = [path for path in sorted(package.rglob("*.py")) if "_pb2" not in path.name]
    assert pronouns_in_a_thousand(paths) < MOST_PRONOUNS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_docstring_begins_with_its_noun_or_its_verb(folder: Path) -> None:
    assert [
        f"{path.name}:{line}: {text[:60]}"
        for path in sorted(folder.glob("*.py"))
        for line, text in docstrings(path)
        if re.match(rf"({'|'.join(OPENINGS)})\b", text)
    ] == []
