"""What is made of a run: on the terminal, as Markdown, as pictures and in the documentation."""

from pathlib import Path

from rich.console import Console

from benchmarks.performance import page
from benchmarks.performance.plots import draw
from benchmarks.performance.run import Run
from benchmarks.performance.tables import markdown, rich_table, tables

PAGE, PICTURES = "performance.md", "performance"
"""Of the documentation's folder."""


def show(run: Run, width: int) -> None:
    console = Console(width=width)
    for table in tables(run).values():
        console.print(rich_table(table))
    console.print(facts(run), highlight=False)
    for failure in run.failures:
        console.print(f"failed: {failure}", style="red", highlight=False)


def as_markdown(run: Run) -> str:
    """All tables, each with its title."""
    parts = [f"## {table.title}\n\n{markdown(table)}" for table in tables(run).values()]
    return "\n\n".join([*parts, facts(run)]) + "\n"


def facts(run: Run) -> str:
    return " · ".join(f"{name} {value}" for name, value in run.facts.items())


def document(run: Run, docs: Path) -> None:
    """Draws the pictures of the page of the documentation, and fills its tables.

    Raises `ValueError` if the run lacks one of them, or failed in part: the page is then as it was.
    """
    if run.failures:
        raise ValueError(f"the run failed in part: {run.failures[0]}")
    path = docs / PAGE
    text = path.read_text(encoding="utf-8")
    parts = {name: markdown(table) for name, table in tables(run).items()}
    parts["machine"] = facts(run)
    if missing := page.names(text) - parts.keys():
        raise ValueError(f"the run has no {', '.join(sorted(missing))}")
    filled = page.fill(text, parts)
    draw(run, docs / PICTURES)
    path.write_text(filled, encoding="utf-8")
