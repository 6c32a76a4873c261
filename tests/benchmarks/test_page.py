"""A page's marked parts are replaced, and nothing else of it."""

import re
from pathlib import Path

import pytest

from benchmarks.performance import page
from benchmarks.performance.report import PICTURES
from benchmarks.performance.tables import tables
from tests.benchmarks.runs import round, run

DOCS = Path(__file__).parent.parent.parent / "docs"

PAGE = """# Title

<!-- first -->
old
older
<!-- /first -->
between
<!-- second --><!-- /second -->
after
"""


def test_parts_are_replaced() -> None:
    filled = page.fill(PAGE, {"first": "| a |", "second": r"\1 <!-- hm -->"})
    assert filled == (
        "# Title\n\n<!-- first -->\n| a |\n<!-- /first -->\nbetween\n"
        "<!-- second -->\n\\1 <!-- hm -->\n<!-- /second -->\nafter\n"
    )


def test_filling_again_changes_nothing() -> None:
    parts = {"first": "| a |", "second": "b"}
    filled = page.fill(PAGE, parts)
    assert page.fill(filled, parts) == filled


def test_names_are_those_of_the_parts() -> None:
    assert page.names(PAGE) == {"first", "second"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs one <!-- a --> and one <!-- /a -->"),
        ("<!-- a -->", "needs one"),
        ("<!-- a --><!-- /a --><!-- a --><!-- /a -->", "needs one"),
        ("<!-- /a --><!-- a -->", "<!-- /a --> stands before <!-- a -->"),
    ],
)
def test_a_part_without_its_markers_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        page.fill(text, {"a": "b"})


def test_the_page_of_the_documentation_has_room_for_all_of_a_run() -> None:
    text = (DOCS / "performance.md").read_text()
    assert page.names(text) == {*tables(run(round())), "machine"}


def test_the_pictures_of_the_page_are_there() -> None:
    names = re.findall(r"\]\((\S+\.svg)\)", (DOCS / "performance.md").read_text())
    drawn = {f"{PICTURES}/{path.name}" for path in (DOCS / PICTURES).iterdir()}
    assert set(names) == drawn and drawn
