"""Docstrings and pages begin with a noun or verb, and repeat nouns in place of pronouns."""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = [
    *(ROOT / name for name in ("client/elman", "server/elman_server", "export/elman_export")),
    ROOT / "examples",
]
FOLDERS = sorted(
    {path.parent for package in PACKAGES for path in package.rglob("*.py")}
    - {ROOT / "client/elman/v1"}
)
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
"""Documentation."""
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


def pronouns_in_a_thousand(texts: Iterable[str]) -> float:
    said = [word for text in texts for word in words(text)]
    return 1000 * sum(word in PRONOUNS for word in said) / max(1, len(said))


def paragraphs(page: str) -> list[str]:
    """Without code, formulas, comments, tables, headings, pictures and targets of links."""
    page = re.sub(
        r"^ *```.*?^ *```$|<!--.*?-->|\$\$.*?\$\$", "", page, flags=re.DOTALL | re.MULTILINE
    )
    lines = [line for line in page.splitlines() if not re.match(r" *(\||#|!\[)", line)]
    text = re.sub(r"\]\([^)]*\)", "]", "\n".join(lines))
    return re.split(r"\n\s*\n|\n *(?:- |\d+\. )", text)


def sentences(paragraph: str) -> list[str]:
    text = " ".join(paragraph.replace("**", "").split()).removeprefix("- ")
    return re.split(r"(?<=[.:?!]) (?=\S)", text)


def test_pronouns_are_counted() -> None:
    assert words("A session, and who owns it. `those` that_are") == [
        *("a", "session", "and", "who", "owns", "it", "that", "are")
    ]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_nouns_are_repeated_in_place_of_pronouns(package: Path) -> None:
    paths = [path for path in sorted(package.rglob("*.py")) if "_pb2" not in path.name]
    texts = (text for path in paths for _, text in docstrings(path))
    assert pronouns_in_a_thousand(texts) < MOST_PRONOUNS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_docstring_begins_with_its_noun_or_its_verb(folder: Path) -> None:
    assert [
        f"{path.name}:{line}: {text[:60]}"
        for path in sorted(folder.glob("*.py"))
        for line, text in docstrings(path)
        if re.match(rf"({'|'.join(OPENINGS)})\b", text)
    ] == []


def test_a_page_is_read_without_its_code_and_tables() -> None:
    page = "# Who\n\nSee [the model](#that). Text:\n\n```\nit\n```\n\n| a | it |\n- One. Two"
    assert [each for text in paragraphs(page) for each in sentences(text) if each] == [
        *("See [the model].", "Text:", "One.", "Two")
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_repeats_nouns_in_place_of_pronouns(page: Path) -> None:
    assert pronouns_in_a_thousand(paragraphs(page.read_text(encoding="utf-8"))) < MOST_PRONOUNS


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_sentence_of_a_page_begins_with_its_noun_or_its_verb(page: Path) -> None:
    assert [
        sentence
        for paragraph in paragraphs(page.read_text(encoding="utf-8"))
        for sentence in sentences(paragraph)
        if re.match(rf"({'|'.join(OPENINGS)})\b", sentence)
    ] == []
