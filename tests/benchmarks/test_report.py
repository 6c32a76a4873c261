"""What a run looks like: the same figures on a terminal, in Markdown, in pictures and on a page."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.performance.cases import ALONE
from benchmarks.performance.plots import draw
from benchmarks.performance.report import as_markdown, document
from benchmarks.performance.run import Round, Run
from benchmarks.performance.tables import markdown, rich_table, tables
from tests.benchmarks.runs import MANY, round, run

PAGE = "".join(
    f"<!-- {name} -->\n<!-- /{name} -->\n"
    for name in ("targets", "limits", "loads", "open-loops", "others", "machine")
)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "performance.md").write_text(PAGE)
    return tmp_path


def cells(run: Run, table: str) -> dict[str, tuple[str, ...]]:
    """Rows by their first words."""
    return {" ".join(row[:2]): row[2:] for row in tables(run)[table].rows}


def test_targets_are_told_with_their_verdicts() -> None:
    found = cells(run(round(), round(2.0)), "targets")
    assert found[f"{MANY.name} of the in-process limit"] == (
        *("≥ 0.50", "0.25", "0.25 to 0.25", "50% of the way"),
    )
    assert found["10,000 sessions open resident bytes each, beside state"] == (
        *("≤ 2,048", "1,024", "1,024 to 1,024", "met"),
    )


def test_a_quantile_of_too_few_frames_is_not_told() -> None:
    few = round()
    found = few.loads[MANY.name]
    assert found.latencies is not None
    few.loads[MANY.name] = replace(found, latencies=replace(found.latencies, frames=299))
    assert cells(run(few), "loads")["lstm-1x128 64 sessions, window 1"][2:5] == ("1.00", "", "")
    # In two rounds there are enough for the one, and not for the other.
    told = cells(run(few, few), "loads")["lstm-1x128 64 sessions, window 1"]
    assert told[2:5] == ("1.00", "10.00", "")


def test_loads_are_told_beside_their_limits() -> None:
    found = cells(run(round()), "loads")
    assert found["lstm-1x128 64 sessions, window 1"] == (
        *("100,000", "0.25", "1.00", "10.00", "20.00", "32.0", "4.00", "1.60", "1.00", "128"),
    )
    assert found["lstm-1x128 64 sessions, window 1, 64 connections"][1] == "0.95 of echo"
    assert found["lstm-1x128 1 session, window 1"][2:5] == ("0.600", "6.00", "12.00")


def test_open_loops_stand_apart() -> None:
    found = cells(run(round(), round(3.0)), "open-loops")
    assert found == {
        "lstm-1x128 64 sessions, open loop at 50%": (
            *("100,000", "1.00", "10.00", "20.00", "32.0", "4.00", "0"),
        )
    }


def test_limits_and_the_others_are_told() -> None:
    limits = tables(run(round()))["limits"].rows
    assert ("lstm-1x128 in-process, elements", "400,000", "", "") in limits
    assert ("echo, messages of 64 connections", "20,000", "3.00", "30.00") in limits
    others = cells(run(round(), round()), "others")
    assert others["2,000 elements by map CPU of client / server, µs an element"] == (
        "5.00 / 10.00",
    )
    assert others["10,000 sessions state of each, bytes"] == ("1,024",)
    assert others["100 interactive sessions, 10 elements/s each p50 / p99 / p99.9, ms"] == (
        "1.00 / 10.00 / 20.00",
    )


def test_what_was_not_measured_is_not_told() -> None:
    assert tables(run(Round())) == {}
    assert set(tables(run(Round(limits={"lstm-1x128": 1.0})))) == {"limits"}


def test_both_kinds_of_table_have_all_rows() -> None:
    for table in tables(run(round())).values():
        assert rich_table(table).row_count == len(table.rows)
        lines = markdown(table).splitlines()
        assert len(lines) == len(table.rows) + 2
        assert {line.count("|") for line in lines} == {len(table.columns) + 1}


def test_pictures_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    names = [path.name for path in draw(run(round(), Round()), tmp_path)]
    assert names == ["throughput.svg", "latency.svg", "targets.svg"]
    for name in names:
        root = ElementTree.parse(tmp_path / name).getroot()
        words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
        assert "lstm-1x128" in words or f"{MANY.name}" in " ".join(map(str, words))
    assert draw(run(Round()), tmp_path) == []


def test_the_same_run_makes_the_same_files(tmp_path: Path) -> None:
    both = [draw(run(round()), tmp_path / name) for name in "ab"]
    for one, other in zip(*both, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_page_is_filled_and_filled_again(docs: Path) -> None:
    document(run(round()), docs)
    filled = (docs / "performance.md").read_text()
    assert "| lstm-1x128 | 64 sessions, window 1 | 100,000 | 0.25 |" in filled
    assert "cores 2 · pinned no" in filled
    assert (docs / "performance" / "targets.svg").exists()
    document(run(round()), docs)
    assert (docs / "performance.md").read_text() == filled


def test_a_run_that_lacks_something_leaves_the_page_alone(docs: Path) -> None:
    partly = run(round())
    partly.failures.append(f"round 1, {ALONE.name}: the server ended the RPC")
    limits_only = run(Round(limits={"lstm-1x128": 1.0}))
    for found, message in ((partly, "failed in part"), (limits_only, "the run has no loads")):
        with pytest.raises(ValueError, match=message):
            document(found, docs)
    assert (docs / "performance.md").read_text() == PAGE
    assert not (docs / "performance").exists()


def test_markdown_has_all_tables(tmp_path: Path) -> None:
    text = as_markdown(run(round()))
    for title in ("Targets", "Limits", "Closed loops", "Open loops", "Beside the loops"):
        assert f"\n## {title}\n" in f"\n{text}"
