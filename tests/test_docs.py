"""User documentation: its links lead somewhere, and its error texts are those of the code."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]
)
PACKAGES = ["client/elman", "server/elman_server", "export/elman_export"]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> frozenset[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(
        r"^#+ (.+)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE
    )
    return frozenset(
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
    )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = without_code(page.read_text(encoding="utf-8"))
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


def test_files_named_to_contributors_exist() -> None:
    text = without_code((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    roots = [ROOT, *(ROOT / package for package in PACKAGES)]
    named = re.findall(r"`([\w./]+/[\w./]+(?:\.\w+)?)`", text)
    assert named
    assert [
        path
        for path in named
        if not path.startswith((".venv/", "path/"))
        and not any((root / path).exists() for root in roots)
    ] == []


@cache
def texts() -> list[str]:
    """Strings of the packages other than docstrings, with a line's end in place of each value."""
    found = []
    for path in [path for each in PACKAGES for path in sorted((ROOT / each).rglob("*.py"))]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    part.value if isinstance(part, ast.Constant) else "\n" for part in node.values
                ]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and id(node) not in docstrings:
                found.append(str(node.value))
    return found


def quoted(page: str) -> list[str]:
    """Messages in the first column of tables headed `message`, without names in brackets."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    tables = re.findall(r"^\| message.*\n\|[-| ]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    cells = [row.split("|")[1] for table in tables for row in table.splitlines()]
    return [message for cell in cells for message in re.findall(r"(?<!\()`([^`]+)`", cell)]


def test_messages_are_found_in_tables() -> None:
    assert "the ticket was altered" in quoted("troubleshooting.md")


@pytest.mark.parametrize("page", ["troubleshooting.md", "export.md"])
def test_a_message_is_in_the_code(page: str) -> None:
    messages = {
        each: re.compile(".*".join(map(re.escape, each.split("..."))), re.DOTALL)
        for each in quoted(page)
    }
    assert [each for each, text in messages.items() if not any(map(text.search, texts()))] == []
