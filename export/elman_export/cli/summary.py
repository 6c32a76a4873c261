"""Printed summary of an export."""

from rich.table import Table

from elman_export.writer import Report


def table(report: Report) -> Table:
    """The proof as a table: the largest difference from the original, by output, input and way."""
    table = Table(title="Differences from the original", title_justify="left")
    for column in ("output", "on", "the step model is asked", "largest", "allowed"):
        table.add_column(column)
    allowed = {
        each.output: "" if each.tolerance is None else f"{each.tolerance:.1e}"
        for each in report.differences
    }
    if any(each.tolerance is None for each in report.differences):
        table.caption = "of 8-bit weights, half the differences are held to half the median size"
    above = None
    for each in report.proof.comparisons:
        group = (each.output, each.input)
        largest = f"{each.maximum:.1e}" + ("" if each.exact else " *")
        shown = ("", "") if group == above else group
        table.add_row(*shown, each.way, largest, allowed[each.output])
        above = group
    return table


def lines(report: Report) -> str:
    parts = [
        f"{report.elements:,} elements compared in each way: "
        + (
            "the same to the last bit in all of them"
            if report.proof.exact
            else "* is not equal to the last bit; the server's probe decides how it batches"
        ),
        *report.notes,
        f"{'replaced' if report.replaced else 'wrote'} {report.path} ({report.size:,} bytes)",
    ]
    return "\n".join(parts)
