"""A page whose marked parts are a run's.

<!-- targets -->
| load | ...
<!-- /targets -->
"""

import re
from collections.abc import Mapping


def fill(page: str, parts: Mapping[str, str]) -> str:
    """`page` with what is between the markers of each part replaced. Raises `ValueError` for a part
    that has none, or several."""
    for name, text in parts.items():
        page = _filled(page, f"<!-- {name} -->", f"<!-- /{name} -->", text)
    return page


def names(page: str) -> set[str]:
    """The parts that it has room for."""
    return set(re.findall(r"<!-- ([\w-]+) -->", page))


def _filled(page: str, start: str, end: str, text: str) -> str:
    if page.count(start) != 1 or page.count(end) != 1:
        raise ValueError(f"the page needs one {start} and one {end}")
    before, _, rest = page.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{end} stands before {start}")
    return f"{before}{start}\n{text}\n{end}{after}"
