"""Tables of docs/horizon.md, from the figures beside this module.

`python -m examples.horizon.tables` reads the results of `examples.horizon` and
`examples.horizon.search`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).with_name("figures.json")
TRIED = Path(__file__).with_name("search.json")


def tables(figures: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields Markdown tables.

    The gradient before training, right answers for each lag alone, right answers for all lags
    together, the gradient after training, and the search.
    """
    lags = figures["plan"]["lags"]
    yield _gradient("gradient at lag", figures["gradient_before"], lags)
    yield _accuracy("right at lag", figures["alone"], lags)
    yield _accuracy("right at lag", figures["together"], lags)
    yield _gradient("gradient at lag", figures["gradient_after"], lags)
    rows = [
        (f"{each['kind']}, {each['init']}", f"{each['rate']:g}", *_percents(each["accuracy"], lags))
        for each in tried
    ]
    yield _table(("right at lag", "rate", *map(str, lags)), rows)


def _gradient(head: str, curves: Mapping[str, Sequence[float]], lags: Sequence[int]) -> str:
    rows = [
        (label, *(f"{curve[lag] / curve[0]:.1e}" for lag in lags))
        for label, curve in curves.items()
    ]
    return _table((head, *map(str, lags)), rows)


def _accuracy(
    head: str, right: Mapping[str, Mapping[str, Sequence[float]]], lags: Sequence[int]
) -> str:
    means = {
        label: {lag: sum(shares) / len(shares) for lag, shares in by_lag.items()}
        for label, by_lag in right.items()
    }
    rows = [(label, *_percents(by_lag, lags)) for label, by_lag in means.items()]
    return _table((head, *map(str, lags)), rows)


def _percents(by_lag: Mapping[str, float], lags: Iterable[int]) -> list[str]:
    return [f"{100 * by_lag[str(lag)]:.1f} %" for lag in lags]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


if __name__ == "__main__":
    print(*tables(json.loads(FIGURES.read_text()), json.loads(TRIED.read_text())), sep="\n\n")
